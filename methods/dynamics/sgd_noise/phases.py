"""Phase diagrams and exponents of SGD noise (2301.13703, sections 3 and 4).

Fidelity
--------
Paper: parity of MNIST (digits here by their label, other sets by the parity of the class's index), P images, phase
diagrams of the test error in (alpha, T), weight change against T and P, T_c(P). Chosen: images pooled, T_c where the
weights move `factor` times as far as at the smallest T (the paper reads it off collapsed curves), exponents by least
squares in logarithms with a bootstrap over replicates. Members of one replicate and size share weights and images, so
that alpha and T are compared in pairs.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from methods.dynamics.sgd_noise.ensemble import Ensemble, Member, Outcome
from methods.dynamics.sgd_noise.hinge import crossing, plane
from methods.dynamics.sgd_noise.networks import build
from methods.fit.images import labelled
from methods.measure.exponents import exponent
from methods.models.estimates import Estimates
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from torch import Tensor

    from methods.data.kinds import Images
    from methods.dynamics.sgd_noise.params import SGDNoise
    from methods.run.context import Context

CHECKPOINT_SECONDS = 30.0
RESAMPLES = 500


def apply(base: None, data: dict, params: SGDNoise, context: Context) -> Estimates:
    """Train the ensemble, go on from a checkpoint where there is one, and measure."""
    x, y = _parity(labelled(data["train"][0], "sgd_noise: train"), params.pool)
    x_test, y_test = _parity(labelled(data["test"][0], "sgd_noise: test"), params.pool)
    if x_test.shape[1:] != x.shape[1:]:
        raise RetrofitError("sgd_noise: images to train and to test differ in size")
    if params.sizes[-1] > len(y):
        raise RetrofitError(
            f"sizes: {params.sizes[-1]} images are asked for, and there are {len(y)}"
        )
    saved = context.checkpoint.load()
    records: list[dict] = saved["state"]["records"] if saved else []
    for size in params.sizes[len({row["size"] for row in records}) :]:
        members, modules, images = _members(size, params, x, context)
        ensemble = Ensemble(modules, members, x, y, images)
        resumed = saved if saved and saved["state"]["size"] == size else None
        outcome = _trained(ensemble, size, params, context, resumed, records)
        records += _records(members, outcome, _errors(ensemble, outcome, x_test, y_test), params)
    records.sort(key=lambda row: row["replicate"])
    _warn(records, params, context)
    _history(records, context)
    return Estimates(records, {}, _metrics(records, params))


def _parity(images: Images, pool: int) -> tuple[Tensor, Tensor]:
    """float32 [n, c, h, w] of mean 0 and deviation 1 over all, and +-1 [n] by the parity of the class."""
    from methods.fit.batches import as_batch_first

    x = as_batch_first(images.x).float()
    if pool > 1:
        x = torch.nn.functional.avg_pool2d(x, pool)
    x = (x - 255 * 0.2) / (255 * 0.3)  # of digits, about; the same for every split and set
    y = torch.from_numpy(images.y % 2) * 2.0 - 1
    return x, y


def _members(size: int, params: SGDNoise, x: Tensor, context: Context):
    """The networks of one size: they are trained together, so that each is looked at after every P / B updates."""
    members, modules, rows = [], [], []
    for replicate in range(params.replicates):
        generator = context.generator(f"sgd noise {replicate}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            module = build(params.network, tuple(x.shape[1:]))
        # The images of a smaller size are the first ones of a larger.
        order = torch.randperm(len(x), generator=generator)[: params.sizes[-1]]
        seed = int(torch.randint(2**62, (), generator=generator))
        for alpha in params.alphas:
            for temperature in params.temperatures:
                members.append(Member(alpha, temperature, size, seed))
                modules.append(copy.deepcopy(module))
                rows.append(order[:size])
    return members, modules, torch.stack(rows)


def _trained(
    ensemble: Ensemble,
    size: int,
    params: SGDNoise,
    context: Context,
    resumed: dict[str, Any] | None,
    records: list[dict],
) -> Outcome:
    state = None
    if resumed:
        tensors = resumed["tensors"]
        weights = {n.removeprefix("w."): v for n, v in tensors.items() if n.startswith("w.")}
        state = {name: tensors[name] for name in ("done", "stable", "updates")}
        state |= {"weights": weights, "update": resumed["state"]["update"]}

    def save(found: dict[str, Any]) -> None:
        if context.checkpoint.every(CHECKPOINT_SECONDS):
            tensors = {name: found[name] for name in ("done", "stable", "updates")}
            tensors |= {f"w.{name}": value for name, value in found["weights"].items()}
            position = {"update": found["update"], "size": size, "records": records}
            context.checkpoint.save(tensors, position)

    return ensemble.train(
        params.batch,
        params.max_updates,
        replacement=params.replacement,
        each=_Bar(params.max_updates, context, f"{size} images, updates"),
        saved=state,
        save=save,
    )


def _warn(records: list[dict], params: SGDNoise, context: Context) -> None:
    unstable = sum(not row["stable"] for row in records)
    unfit = sum(row["stable"] and not row["fitted"] for row in records)
    if unstable or unfit:
        context.log.warning(
            "of %d networks %d became unstable and %d did not fit within %d updates",
            len(records),
            unstable,
            unfit,
            params.max_updates,
        )


class _Bar:
    """Progress over updates; it ends early where all have fitted."""

    def __init__(self, total: int, context: Context, label: str):
        self._ticks = iter(context.progress(range(total), total, label))
        self._at = 0

    def __call__(self, update: int, left: int) -> None:
        while self._at < update:
            next(self._ticks, None)
            self._at += 1


def _errors(ensemble: Ensemble, found: Outcome, x: Tensor, y: Tensor) -> Tensor:
    """Share of test images on the wrong side, [E]; NaN for members that are not finite."""
    count = len(ensemble.members)
    wrong = torch.zeros(count)
    for part, labels in zip(x.split(500), y.split(500), strict=True):
        rows = part.expand(count, *part.shape)
        with torch.no_grad():
            f = ensemble.outputs(found.weights, ensemble.buffers, rows)
            f = f - ensemble.outputs(ensemble.first, ensemble.buffers, rows)
        wrong += (f * labels <= 0).float().sum(1)
    return torch.where(found.stable, wrong / len(y), torch.nan)


def _records(members: list[Member], found: Outcome, errors: Tensor, params: SGDNoise) -> list[dict]:
    each = len(params.alphas) * len(params.temperatures)
    rows = []
    for i, member in enumerate(members):
        rate = member.temperature * params.batch
        rows.append(
            {
                "replicate": i // each,
                "alpha": member.alpha,
                "temperature": member.temperature,
                "size": member.size,
                "fitted": int(found.fitted[i]),
                "stable": int(found.stable[i]),
                "updates": int(found.updates[i]),
                "time": float(found.updates[i]) * rate,
                "error": float(errors[i]),
                "moved": float(found.distance[i] / found.start[i]),
            }
        )
    return rows


def _history(records: list[dict], context: Context) -> None:
    """One row for each (alpha, T, P): means over the replicates that fitted, and how many did."""
    groups: dict[tuple, list[dict]] = {}
    for row in records:
        groups.setdefault((row["size"], row["alpha"], row["temperature"]), []).append(row)
    for (size, alpha, temperature), rows in groups.items():
        kept = [row for row in rows if row["fitted"]]
        mean = {
            name: float(np.mean([row[name] for row in kept])) if kept else float("nan")
            for name in ("error", "moved", "time")
        }
        context.record(
            size=size,
            alpha=alpha,
            temperature=temperature,
            fitted=len(kept) / len(rows),
            **mean,
        )


def _grid(records: list[dict], params: SGDNoise, name: str) -> np.ndarray:
    """[replicates, sizes, alphas, temperatures], NaN where a network has not fitted."""
    values = [row[name] if row["fitted"] else np.nan for row in records]
    shape = (params.replicates, len(params.sizes), len(params.alphas), len(params.temperatures))
    return np.array(values, dtype=float).reshape(shape)


def _metrics(records: list[dict], params: SGDNoise) -> dict[str, Metric]:
    stable = np.mean([row["stable"] for row in records])
    fit = np.mean([row["fitted"] for row in records])
    found = {
        "stable": Metric(float(stable), n=len(records), higher_is_better=True),
        "fitted": Metric(float(fit), n=len(records), higher_is_better=True),
    }
    error, moved = _grid(records, params, "error"), _grid(records, params, "moved")
    for k, alpha in enumerate(params.alphas):
        found |= _noise(error[:, -1, k], f"a{alpha:g}")
        if len(params.sizes) >= 3:
            found |= _exponents(moved[:, :, k], params, f"a{alpha:g}")
    return found


def _noise(error: np.ndarray, name: str) -> dict[str, Metric]:
    """error [replicates, T] at the largest P: what noise does to the test error.

    The T that is best in the mean over replicates is chosen on the other replicates of each one, so that the least of
    several noisy errors is not taken for a gain.
    """
    whole = ~np.isnan(error).any(0)
    if whole.sum() < 2 or len(error) < 2:
        return {}
    kept = error[:, whole]
    gains, highest = [], []
    for i in range(len(kept)):
        others = np.delete(kept, i, 0).mean(0)
        gains.append(kept[i, 0] - kept[i, int(others.argmin())])
        highest.append(kept[i, -1] - kept[i, 0])
    return {
        f"error/{name}/cold": _mean(kept[:, 0], False),
        f"gain/{name}": _mean(np.array(gains), True),
        f"hot_minus_cold/{name}": _mean(np.array(highest), None),
    }


def _mean(values: np.ndarray, better: bool | None) -> Metric:
    return Metric(
        float(values.mean()),
        stderr=float(values.std(ddof=1) / len(values) ** 0.5),
        n=len(values),
        higher_is_better=better,
        values=values.tolist(),
        labels=[str(i) for i in range(len(values))],
    )


def _exponents(moved: np.ndarray, params: SGDNoise, name: str) -> dict[str, Metric]:
    """moved [replicates, P, T] at one alpha: T_c ~ P^-a, and above it moved ~ T^delta P^gamma."""
    t, sizes = np.array(params.temperatures), np.array(params.sizes)
    critical = np.array([[crossing(t, row, params.factor) for row in one] for one in moved])
    usable = np.isfinite(critical).all(0)
    found = {}
    if usable.sum() >= 3 and len(critical) >= 2:
        fit = exponent(sizes[usable], critical[:, usable].T)
        found[f"a/{name}"] = Metric(-fit.value, stderr=fit.stderr, n=fit.replicates)
    laws = _above(moved, t, sizes, np.nanmean(critical, 0))
    if laws:
        found |= {f"{law}/{name}": metric for law, metric in laws.items()}
    return found


def _above(
    moved: np.ndarray, t: np.ndarray, sizes: np.ndarray, critical: np.ndarray
) -> dict[str, Metric]:
    """delta, gamma and gamma / delta over the fields above T_c where all replicates fitted."""
    kept = (t[None, :] >= critical[:, None]) & np.isfinite(moved).all(0)
    p_at, t_at = np.nonzero(kept)
    if len(set(p_at.tolist())) < 3 or len(set(t_at.tolist())) < 2 or len(moved) < 2:
        return {}
    values = moved[:, p_at, t_at]

    def fit(rows: np.ndarray) -> tuple[float, float, float]:
        delta, gamma = plane(t[t_at], sizes[p_at].astype(float), values[rows].mean(0))
        return delta, gamma, gamma / delta

    rng = np.random.default_rng(0)
    count = len(moved)
    again = np.array([fit(rng.integers(count, size=count)) for _ in range(RESAMPLES)])
    whole = fit(np.arange(count))
    return {
        law: Metric(value, stderr=float(again[:, i].std(ddof=1)), n=count)
        for i, (law, value) in enumerate(
            zip(("delta", "gamma", "gamma_over_delta"), whole, strict=True)
        )
    }

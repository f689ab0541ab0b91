"""Rates of estimation: replicates of a true mixture at growing sizes, fitted, and their losses against n.

Papers: 2309.13850, sections 2 and 3 (top-K), 2401.13875, sections 2 and 3 (temperature).

Fidelity
--------
Papers: x uniform, 40 replicates, sizes from 100 to 100 000, EM to 1e-6 or 2000 iterations, starts at the truth with a
little noise. Chosen: sizes evenly spaced in log n (the published ones are evenly spaced in n, so that their slopes rest
on the large ones), slopes of the mean and of the median over replicates with bootstrap intervals, and an independent
start beside the published one. The loss is D1 or D2, with a temperature D3 or D4.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from methods.measure.exponents import exponent
from methods.mixtures.designs import Design, design, from_data, near_truth
from methods.mixtures.em import em, empty_experts
from methods.mixtures.gates import DEPENDENT, Gate
from methods.mixtures.losses import hellinger, referred, voronoi_loss
from methods.models.estimates import Estimates
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.mixtures.mixture import Mixture
    from methods.mixtures.params import MoERates
    from methods.run.context import Context

ROWS_AT_ONCE = 1_000_000
"""Of all replicates that are fitted together, which bounds memory."""
HELLINGER_ROWS = 64


@dataclass
class Replicates:
    """What is kept of each data set of one size, lists of equal length."""

    loss: list[float] = field(default_factory=list)
    hellinger: list[float] = field(default_factory=list)
    log_likelihood: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    converged: list[bool] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    tau_error: list[float] = field(default_factory=list)


def apply(base: None, data: dict, params: MoERates, context: Context) -> Estimates:
    """Fit every replicate of every size. Goes on after a stop with the size that was not done."""
    found = design(params.design, params.activation, params.ranking)
    gate = replace(found.gate, active=params.active)
    gate.check(params.experts)
    if gate.tempered and gate.activation in DEPENDENT:
        context.log.warning(
            "activation %s: the temperature is not identified (%s); its estimate stays where EM began",
            gate.activation,
            DEPENDENT[gate.activation],
        )
    saved = context.checkpoint.load()
    done: dict[str, Any] = saved["state"]["done"] if saved else {}
    for n in context.progress(params.sizes, label="sizes"):
        if str(n) not in done:
            done[str(n)] = vars(_one_size(n, found, gate, params, context))
            context.checkpoint.save({}, {"done": done})
    kept = {n: Replicates(**done[str(n)]) for n in params.sizes}
    for n, replicates in kept.items():
        context.record(
            n=n,
            loss_mean=float(np.mean(replicates.loss)),
            loss_median=float(np.median(replicates.loss)),
            hellinger=float(np.mean(replicates.hellinger)),
            **({"tau_error": float(np.mean(replicates.tau_error))} if replicates.tau_error else {}),
        )
    records = [
        {
            "n": n,
            "replicate": i,
            **{name: values[i] for name, values in vars(one).items() if values},
        }
        for n, one in kept.items()
        for i in range(len(one.loss))
    ]
    records = [{k: int(v) if isinstance(v, bool) else v for k, v in row.items()} for row in records]
    return Estimates(records, {}, _metrics(kept, params))


def _one_size(n: int, found: Design, gate: Gate, params: MoERates, context: Context) -> Replicates:
    kept = Replicates()
    at_once = max(1, ROWS_AT_ONCE // n)
    for first in range(0, params.replicates, at_once):
        numbers = range(first, min(first + at_once, params.replicates))
        # A stream for each replicate, so that the numbers do not depend on how many are fitted together.
        drawn = [
            _draw(n, found, params, context.generator(f"moe {n} {number}")) for number in numbers
        ]
        x, y = torch.stack([one[0] for one in drawn]), torch.stack([one[1] for one in drawn])
        if params.start == "truth":
            start = _stacked([one[2] for one in drawn])
        else:
            generators = [one[3] for one in drawn]
            start = from_data(x, y, params.experts, gate, params.restarts, generators)
        fit = em(x, y, start, gate, tolerance=params.tolerance, iterations=params.iterations)
        _keep(kept, fit, x, y, found, gate, params)
    return kept


def _draw(n: int, found: Design, params: MoERates, generator: torch.Generator) -> tuple:
    from methods.mixtures.mixture import sample

    x = found.x((n,), generator)
    y = sample(x, found.truth, found.gate, generator)
    start = near_truth(found, params.experts, n, 1, generator)[0]
    return x, y, start, generator


def _stacked(mixtures: list[Mixture]) -> Mixture:
    from methods.mixtures.mixture import Mixture

    first = vars(mixtures[0])
    return Mixture(
        **{
            name: None if value is None else torch.stack([getattr(m, name) for m in mixtures])
            for name, value in first.items()
        }
    )


def _keep(kept: Replicates, fit, x, y, found: Design, gate: Gate, params: MoERates) -> None:
    over = params.experts > found.truth.experts
    truth = found.batch(len(y))
    mixture = referred(fit.mixture, truth, gate)
    rows = torch.linspace(found.low, found.high, HELLINGER_ROWS, dtype=x.dtype)[:, None]
    kept.loss += voronoi_loss(mixture, truth, found.gate.active, over).tolist()
    kept.hellinger += hellinger(rows, fit.mixture, gate, truth, found.gate).tolist()
    kept.log_likelihood += fit.log_likelihood.tolist()
    kept.iterations += fit.iterations.tolist()
    kept.converged += fit.converged.tolist()
    kept.empty += empty_experts(x, y, fit.mixture, gate).tolist()
    if fit.mixture.tau is not None:
        kept.tau_error += (fit.mixture.tau - truth.tau).abs().tolist()


def _metrics(kept: dict[int, Replicates], params: MoERates) -> dict[str, Metric]:
    sizes = np.array(params.sizes)
    fitted = sizes >= params.fit_from
    found: dict[str, Metric] = {}
    for name in ("loss", "hellinger", "tau_error"):
        values = np.array([getattr(one, name) for one in kept.values()])
        if values.size:
            found[f"slope/{name}"] = exponent(sizes[fitted], values[fitted], "mean").metric()
            found[f"slope/{name}_median"] = exponent(
                sizes[fitted], values[fitted], "median"
            ).metric()
            found[f"last/{name}"] = _mean(values[-1])
    fits = [
        pair for one in kept.values() for pair in zip(one.converged, one.iterations, strict=True)
    ]
    found["converged"] = Metric(
        float(np.mean([c for c, _ in fits])), n=len(fits), higher_is_better=True
    )
    found["iterations"] = Metric(float(np.mean([i for _, i in fits])), n=len(fits))
    empty = [count for one in kept.values() for count in one.empty]
    found["empty_experts"] = Metric(float(np.mean(empty)), n=len(empty), higher_is_better=False)
    return found


def _mean(values: np.ndarray) -> Metric:
    return Metric(
        float(values.mean()),
        stderr=float(values.std(ddof=1) / len(values) ** 0.5),
        n=len(values),
        higher_is_better=False,
        values=values.tolist(),
        labels=[str(number) for number in range(len(values))],
    )

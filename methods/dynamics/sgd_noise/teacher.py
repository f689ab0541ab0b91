"""The teacher perceptron (2301.13703, section 5): F = w·x / sqrt(d), label the sign of x1, density |x1|^chi at zero.

Theory: |w| ~ T P^gamma with gamma = 1 / (1 + chi), since the closest of P points is at a distance P^-gamma;
t ~ T P^(1 + 2 gamma). Starts at w = 0, so that scaling T and the margin together scales w exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from methods.dynamics.sgd_noise.hinge import drawn, plane
from methods.measure.exponents import exponent
from methods.models.estimates import Estimates
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.dynamics.sgd_noise.params import SGDPerceptron
    from methods.run.context import Context

LOOKS = 16
"""Batches' worth of data between two looks at whether all points are fitted, P / batch / this; at least one update."""


def points(shape: tuple[int, ...], dimension: int, chi: float, rng: np.random.Generator) -> Tensor:
    """float64 [*shape, d]: x1 of density |x1|^chi exp(-x1^2 / 2), the others standard normal."""
    x = rng.normal(size=(*shape, dimension))
    size = np.sqrt(rng.gamma((chi + 1) / 2, 2.0, size=shape))
    x[..., 0] = size * rng.choice([-1.0, 1.0], size=shape)
    return torch.from_numpy(x)


def train(
    x: Tensor, temperature: Tensor, margin: Tensor, batch: int, seeds: Tensor, max_updates: int
) -> tuple[Tensor, Tensor, Tensor]:
    """w [E, d], updates [E] and fitted [E] of E perceptrons: x [E, P, d], temperature, margin, seeds [E].

    w += T sum over the batch of y x / sqrt(d) where y F < margin, until every point has its margin.
    """
    members, size, d = x.shape
    z = x * x[..., :1].sign() / d**0.5  # y x / sqrt(d)
    w = torch.zeros((members, d), dtype=x.dtype)
    updates = torch.full((members,), max_updates)
    done = torch.zeros(members, dtype=torch.bool)
    active, at, v = torch.arange(members), z, w.clone()
    sizes = torch.full((members,), size)
    rounds, update = max(1, size // batch // LOOKS), 0
    while update < max_updates and len(active):
        t, m, s = temperature[active, None], margin[active, None], seeds[active]
        for _ in range(min(rounds, max_updates - update)):
            rows = drawn(s, update, batch, sizes[active])
            part = at.gather(1, rows.unsqueeze(-1).expand(-1, -1, d))
            short = (part @ v.unsqueeze(-1)).squeeze(-1) < m
            v = v + t * (part * short.unsqueeze(-1)).sum(1)
            update += 1
        good = ((at @ v.unsqueeze(-1)).squeeze(-1) >= m).all(-1)
        w[active] = v
        updates[active[good]] = update
        done[active[good]] = True
        if good.any():
            active, v = active[~good], v[~good]
            at = z[active]
    return w, updates, done


def apply(base: None, data: dict, params: SGDPerceptron, context: Context) -> Estimates:
    """Train for every P and T, and fit the exponents. Goes on after a stop with the size that was not done."""
    saved = context.checkpoint.load()
    records: list[dict] = saved["state"]["records"] if saved else []
    known = {row["size"] for row in records}
    for size in context.progress(params.sizes, label="sizes"):
        if size not in known:
            records += _one_size(size, params, context)
            context.checkpoint.save({}, {"records": records})
    for row in _means(records):
        context.record(**row)
    return Estimates(records, {}, _metrics(records, params))


def _one_size(size: int, params: SGDPerceptron, context: Context) -> list[dict]:
    rng = context.numpy(f"perceptron {size}")
    x = points((params.replicates, size), params.dimension, params.chi, rng)
    seeds = torch.from_numpy(rng.integers(2**62, size=params.replicates))
    count = len(params.temperatures)
    x, seeds = x.repeat_interleave(count, 0), seeds.repeat_interleave(count)
    temperature = torch.tensor(params.temperatures, dtype=x.dtype).repeat(params.replicates)
    margin = torch.full_like(temperature, params.margin)
    w, updates, done = train(x, temperature, margin, params.batch, seeds, params.max_updates)
    return [
        {
            "size": size,
            "temperature": float(temperature[i]),
            "replicate": i // count,
            "fitted": int(done[i]),
            "w1": float(w[i, 0]),
            "w_perp": float(w[i, 1:].norm()),
            "w": float(w[i].norm()),
            "time": float(updates[i]) * float(temperature[i]) * params.batch,
        }
        for i in range(len(w))
    ]


def _means(records: list[dict]) -> list[dict]:
    groups: dict[tuple, list[dict]] = {}
    for row in records:
        groups.setdefault((row["size"], row["temperature"]), []).append(row)
    return [
        {
            "size": size,
            "temperature": temperature,
            **{n: float(np.mean([r[n] for r in rows])) for n in ("w1", "w_perp", "w", "time")},
        }
        for (size, temperature), rows in groups.items()
    ]


def _metrics(records: list[dict], params: SGDPerceptron) -> dict[str, Metric]:
    shape = (len(params.sizes), params.replicates, len(params.temperatures))
    grid = {
        n: np.array([r[n] for r in records]).reshape(shape) for n in ("w1", "w_perp", "w", "time")
    }
    sizes, t = np.array(params.sizes, dtype=float), np.array(params.temperatures)
    fitted = float(np.mean([row["fitted"] for row in records]))
    found = {"fitted": Metric(fitted, n=len(records), higher_is_better=True)}
    if len(sizes) >= 3:
        for name, values in grid.items():
            # At the largest T, where noise and not the margin decides.
            found[f"gamma/{name}"] = exponent(sizes, values[:, :, -1]).metric()
    if len(t) >= 3:
        found["delta/w"] = exponent(t, grid["w"][-1].T).metric()
    if len(sizes) >= 3 and len(t) >= 3:
        p_at, t_at = np.meshgrid(sizes, t, indexing="ij")
        delta, gamma = plane(t_at.ravel(), p_at.ravel(), grid["w"].mean(1).ravel())
        found |= {"plane/delta": Metric(delta), "plane/gamma": Metric(gamma)}
    return found

"""How far a fitted mixture is from the true one: Voronoi losses of its numbers, Hellinger distance of its densities.

Fidelity
--------
Papers: cells, D1 and D2 of 2309.13850 (section 2, equations 4 and 7), D3 and D4 of 2401.13875 (section 3). The
published code of the dense sibling paper skips an atom where two fall into one cell of the exact loss; the cells here
are those of the definition. Weights of D3 and D4 are exp(beta0 / tau).
Chosen: before an over-specified loss the gate is shifted so that the reference atom's cell has its true mass, since
sums of exp(beta0) are no invariants of the model.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor

from methods.mixtures.gates import Gate
from methods.mixtures.mixture import Mixture, joint

RATES = {1: 1.0, 2: 4.0, 3: 6.0}
"""r(m): the order at which a cell of m atoms is told from one atom (2309.13850, Lemma 1); at least 7 from m = 4 on."""


def distances(fitted: Mixture, truth: Mixture) -> Tensor:
    """Euclidean distance of each fitted atom (beta1, a, b, v[, tau]) to each true one, [..., k, k*]."""
    mine, theirs = _atoms(fitted), _atoms(truth)
    return torch.cdist(mine, theirs)


def _atoms(mixture: Mixture) -> Tensor:
    parts = [mixture.beta1, mixture.a, mixture.b.unsqueeze(-1), mixture.v.unsqueeze(-1)]
    if mixture.tau is not None:
        parts.append(mixture.tau[..., None, None].expand_as(parts[2]))
    return torch.cat(parts, -1)


def _experts(mixture: Mixture) -> Tensor:
    return torch.cat([mixture.a, mixture.b.unsqueeze(-1), mixture.v.unsqueeze(-1)], -1)


def cells(fitted: Mixture, truth: Mixture) -> Tensor:
    """The Voronoi cell of each fitted atom: index of the nearest true atom, int64 [..., k]."""
    return distances(fitted, truth).argmin(-1)


def weights(mixture: Mixture) -> Tensor:
    """exp(beta0), or exp(beta0 / tau), [..., k]."""
    tau = 1.0 if mixture.tau is None else mixture.tau.unsqueeze(-1)
    return (mixture.beta0 / tau).exp()


def referred(fitted: Mixture, truth: Mixture, gate: Gate) -> Mixture:
    """The fitted mixture, its gate shifted so that the last true atom's cell has mass and slope of that atom.

    Only beta0 where phi is no identity. Where that cell is empty, its nearest atom stands for it.
    """
    last = truth.experts - 1
    # By the experts alone: before the shift no slope of the gate can be compared.
    gap = torch.cdist(_experts(fitted), _experts(truth))
    inside = gap.argmin(-1) == last
    nearest = gap[..., last].argmin(-1, keepdim=True)
    alone = torch.zeros_like(inside).scatter(-1, nearest, True)
    inside = torch.where(inside.any(-1, keepdim=True), inside, alone)
    w = torch.where(inside, weights(fitted), 0.0)
    tau = 1.0 if fitted.tau is None else fitted.tau
    shift = tau * w.sum(-1).log() - truth.beta0[..., last] * (
        1.0 if truth.tau is None else tau / truth.tau
    )
    beta1 = fitted.beta1
    if gate.activation == "identity":
        mean = (w.unsqueeze(-1) * beta1).sum(-2) / w.sum(-1, keepdim=True)
        beta1 = beta1 - mean.unsqueeze(-2) + truth.beta1[..., last : last + 1, :]
    return replace(fitted, beta0=fitted.beta0 - shift.unsqueeze(-1), beta1=beta1)


def voronoi_loss(
    fitted: Mixture, truth: Mixture, active: int | None = None, over: bool = False
) -> Tensor:
    """D1 or D3 (`over=False`), D2 or D4 (`over=True`), [...].

    The temperature of both decides between the pairs. active: K of a top-K gate; the loss is then the largest over K
    true atoms, which is the sum of the K largest parts.
    """
    cell = cells(fitted, truth)
    w, w_true = weights(fitted), weights(truth)
    own = torch.nn.functional.one_hot(cell, truth.experts).bool()  # [..., k, k*]
    size = own.sum(-2)  # atoms of each cell
    power = _powers(size, over)
    differences = {
        "beta1": (fitted.beta1.unsqueeze(-2) - truth.beta1.unsqueeze(-3)).norm(dim=-1),
        "a": (fitted.a.unsqueeze(-2) - truth.a.unsqueeze(-3)).norm(dim=-1),
        "b": (fitted.b.unsqueeze(-1) - truth.b.unsqueeze(-2)).abs(),
        "v": (fitted.v.unsqueeze(-1) - truth.v.unsqueeze(-2)).abs(),
    }
    tempered = fitted.tau is not None
    if tempered:
        differences["tau"] = (
            (fitted.tau - truth.tau).abs()[..., None, None].expand_as(differences["b"])
        )
    exponents = {
        "beta1": torch.where(size > 1, 2.0, 1.0) if tempered and over else power,
        "tau": torch.where(size > 1, 2.0, 1.0) if over else torch.ones_like(power),
        "a": torch.where(size > 1, 2.0, 1.0) if tempered and over else _half(power, size),
        "b": power,
        "v": _half(power, size),
    }
    parts = sum(d ** exponents[name].unsqueeze(-2) for name, d in differences.items())
    weighted = (torch.where(own, parts, 0.0) * w.unsqueeze(-1)).sum(-2)
    mass = (torch.where(own, w.unsqueeze(-1), 0.0).sum(-2) - w_true).abs()
    per_atom = weighted + mass
    if active is None or active >= truth.experts:
        return per_atom.sum(-1)
    return per_atom.topk(active, -1).values.sum(-1)


def _powers(size: Tensor, over: bool) -> Tensor:
    """r(m) of each cell where over-specified, else 1."""
    if not over:
        return torch.ones(size.shape, dtype=torch.float64)
    table = torch.tensor([1.0, *(RATES.get(m, 7.0) for m in range(1, int(size.max()) + 1))])
    return table.to(torch.float64)[size]


def _half(power: Tensor, size: Tensor) -> Tensor:
    return torch.where(size > 1, power / 2, power)


def active_needed(fitted: Mixture, truth: Mixture, active: int) -> Tensor:
    """max over K true atoms of the number of fitted atoms in their cells (2309.13850, Theorem 2), [...]."""
    sizes = torch.nn.functional.one_hot(cells(fitted, truth), truth.experts).sum(-2)
    return sizes.topk(min(active, truth.experts), -1).values.sum(-1)


def hellinger(
    x: Tensor,
    fitted: Mixture,
    fitted_gate: Gate,
    truth: Mixture,
    true_gate: Gate,
    points: int = 400,
) -> Tensor:
    """sqrt(mean over x of 1/2 int (sqrt p - sqrt q)^2 dy), [...]; x [m, d].

    By the trapezoid rule on `points` values of y for each x, over eight deviations around every expert of both.
    """
    y = _grid(x, [fitted, truth], points)  # [..., m, points]

    def root(mixture: Mixture, gate: Gate) -> Tensor:
        rows = x.repeat_interleave(points, 0)
        flat = y.flatten(-2)
        spread = rows.expand(*flat.shape[:-1], *rows.shape)
        return (
            (0.5 * joint(spread, flat, mixture, gate).logsumexp(-1))
            .exp()
            .unflatten(-1, y.shape[-2:])
        )

    gap = (root(fitted, fitted_gate) - root(truth, true_gate)).square()
    inner = 0.5 * torch.trapezoid(gap, y, dim=-1)
    return inner.mean(-1).clamp(min=0).sqrt()


def _grid(x: Tensor, mixtures: list[Mixture], points: int) -> Tensor:
    """Values of y that are dense where any expert is: quantiles of the experts' own normal laws, merged."""
    share = points // sum(m.experts for m in mixtures)
    normal = torch.linspace(-8, 8, share, dtype=x.dtype)
    parts = []
    for m in mixtures:
        mean = x @ m.a.transpose(-1, -2) + m.b.unsqueeze(-2)
        parts.append((mean.unsqueeze(-1) + m.v.sqrt()[..., None, :, None] * normal).flatten(-2))
    lead = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    found = torch.cat([p.expand(*lead, p.shape[-1]) for p in parts], -1).sort(-1).values
    missing = points - found.shape[-1]
    return torch.cat([found, found[..., -1:].expand(*lead, missing)], -1)


def matched(fitted: Mixture, truth: Mixture) -> Mixture:
    """The fitted atoms in the order of the true ones, by the least sum of distances; for one mixture with k = k*."""
    gap = distances(fitted, truth)
    k = truth.experts
    best = min(
        itertools.permutations(range(k)),
        key=lambda p: math.fsum(float(gap[i, j]) for j, i in enumerate(p)),
    )
    order = torch.tensor(best)
    return replace(
        fitted,
        **{name: getattr(fitted, name)[order] for name in ("beta0", "beta1", "a", "b", "v")},
    )

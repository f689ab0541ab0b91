"""The true mixtures of the studies, where their x come from, and where EM starts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.mixtures.em import Free, em, gate_step
from methods.mixtures.gates import Gate
from methods.mixtures.mixture import Mixture, weighted_least_squares

DTYPE = torch.float64


@dataclass(frozen=True)
class Design:
    """A true mixture, its gate, and the interval that x is uniform on."""

    truth: Mixture
    gate: Gate
    low: float
    high: float

    def x(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws [*shape, 1]."""
        return self.low + (self.high - self.low) * torch.rand(
            (*shape, 1), generator=generator, dtype=DTYPE
        )

    def batch(self, size: int) -> Mixture:
        """The truth, `size` times."""
        return repeated(self.truth, size)


def repeated(mixture: Mixture, size: int) -> Mixture:
    """A batch of equal mixtures."""
    values = {
        name: None if value is None else value.expand(size, *value.shape).clone()
        for name, value in vars(mixture).items()
    }
    return Mixture(**values)


def _numbers(beta0, beta1, a, b, v, tau=None) -> Mixture:
    def column(values):
        return torch.tensor(values, dtype=DTYPE)[:, None]

    return Mixture(
        torch.tensor(beta0, dtype=DTYPE),
        column(beta1),
        column(a),
        torch.tensor(b, dtype=DTYPE),
        torch.tensor(v, dtype=DTYPE),
        None if tau is None else torch.tensor(tau, dtype=DTYPE),
    )


TWO = _numbers([-8, 0], [25, 0], [-20, 20], [15, -5], [0.09, 0.16])
"""Of the published simulation of the dense sibling paper; standard deviations 0.3 and 0.4."""
THREE = _numbers([0.5, -0.5, 0], [6, -6, 0], [-5, 4, 1], [3, 2, -3], [0.09, 0.16, 0.25])
"""Ours: x on [-1, 1], so that slopes alone let every pair of experts answer somewhere."""
TEMPERED = _numbers([0.3, 0], [2, -1], [-1, 1.5], [0.5, -0.5], [0.25, 0.36], 0.8)


def design(name: str, activation: str = "identity", ranking: str = "slope") -> Design:
    """A design by name. With phi the identity the tempered one is shifted so that its last atom's gate is zero."""
    if name == "dense-2":
        return Design(TWO, Gate(), 0.0, 1.0)
    if name == "top1-2":
        # Ranked by slope alone the first expert would answer everywhere on [0, 1].
        return Design(TWO, Gate(1, "logit"), 0.0, 1.0)
    if name == "top2-3":
        return Design(THREE, Gate(2, ranking), -1.0, 1.0)
    gate = Gate(activation=activation, tempered=True)
    return Design(TEMPERED.canonical(gate), gate, -2.0, 2.0)


def near_truth(
    found: Design, experts: int, n: int, size: int, generator: torch.Generator
) -> Mixture:
    """As published: every fitted atom is a true one, none left out, with noise that shrinks a little with n.

    beta, a, b: deviation 0.005 n^-0.083; v: plus the size of 0.0005 n^-0.25 (experiment code of the sibling paper).
    An atom that stands k times has its mass divided by k.
    """
    truth = found.truth
    k = truth.experts
    extra = torch.randint(k, (size, max(experts - k, 0)), generator=generator)
    chosen = torch.cat([torch.arange(k).expand(size, k), extra], 1)
    # The reference stays last.
    chosen = torch.cat([chosen[:, :-1], chosen[:, -1:]], 1).sort(dim=1).values[:, :experts]
    count = torch.nn.functional.one_hot(chosen, k).sum(1).gather(1, chosen).to(DTYPE)

    def noise(like: Tensor, deviation: float) -> Tensor:
        return deviation * torch.randn(like.shape, generator=generator, dtype=DTYPE)

    small, tiny = 0.005 * n**-0.083, 0.0005 * n**-0.25
    tau = None if truth.tau is None else truth.tau.expand(size) + noise(torch.empty(size), small)
    shrink = count.log() if truth.tau is None else count.log() * truth.tau
    picked = [truth.beta0[chosen] - shrink, truth.beta1[chosen], truth.a[chosen], truth.b[chosen]]
    beta0, beta1, a, b = (value + noise(value, small) for value in picked)
    v = truth.v[chosen] + noise(truth.v[chosen], tiny).abs()
    return Mixture(beta0, beta1, a, b, v, tau)


def from_data(
    x: Tensor,
    y: Tensor,
    experts: int,
    gate: Gate,
    restarts: int,
    generators: list[torch.Generator],
    short: int = 20,
) -> Mixture:
    """Independent of the truth: rows around random centres make experts and a gate; the likeliest after a few steps.

    x [R, n, d], y [R, n]; one generator for each data set. The likeliest of `restarts` after `short` steps of EM.
    """
    best, likelihood = None, None
    for _ in range(restarts):
        start = _clustered(x, y, experts, gate, generators)
        fit = em(x, y, start, gate, iterations=short, tolerance=0.0)
        if best is None:
            best, likelihood = fit.mixture, fit.log_likelihood
        else:
            better = fit.log_likelihood > likelihood
            best = best.merged(better.nonzero().squeeze(-1), fit.mixture[better])
            likelihood = torch.maximum(likelihood, fit.log_likelihood)
    return best


def _clustered(
    x: Tensor, y: Tensor, experts: int, gate: Gate, generators: list[torch.Generator]
) -> Mixture:
    points = torch.cat([x, y.unsqueeze(-1)], -1)
    points = (points - points.mean(-2, keepdim=True)) / points.std(-2, keepdim=True)
    size, n, d = x.shape
    rows = torch.stack([torch.randperm(n, generator=g)[:experts] for g in generators])
    centres = points.gather(1, rows.unsqueeze(-1).expand(-1, -1, d + 1))
    for _ in range(5):  # Lloyd's steps
        near = torch.cdist(points, centres).argmin(-1)
        r = torch.nn.functional.one_hot(near, experts).to(DTYPE)
        mass = r.sum(-2).unsqueeze(-1)
        centres = torch.where(mass > 0, r.transpose(-1, -2) @ points / mass.clamp(min=1), centres)
    zeros = torch.zeros((size, experts, d), dtype=DTYPE)
    mixture = Mixture(
        zeros[..., 0],
        zeros,
        zeros,
        y.mean(-1, keepdim=True).expand(size, experts),
        y.var(-1, keepdim=True).expand(size, experts),
        torch.ones(size, dtype=DTYPE) if gate.tempered else None,
    )
    a, b, v = weighted_least_squares(x, y, 0.9 * r + 0.1 / experts, mixture)
    mixture = replace(mixture, a=a, b=b, v=v.clamp(min=1e-4))
    if gate.activation != "identity":
        # Scores of zero have no slope to follow; small random ones do.
        random = [torch.randn((experts, d), generator=g, dtype=DTYPE) for g in generators]
        mixture = replace(mixture, beta1=torch.stack(random))
    dense = replace(gate, active=None)
    free = Free.of(dense, experts, tau=False)
    for _ in range(3):
        mixture = gate_step(x, 0.8 * r + 0.2 / experts, mixture, dense, free)
    return mixture

"""A mixture of linear Gaussian experts: its numbers, density, sampling and the pieces of EM that are closed forms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.mixtures.gates import Gate, log_gates

SMALLEST_VARIANCE = 1e-8
SMALLEST_MASS = 1e-8
"""An expert that answers for less than this much of the data keeps its numbers."""


@dataclass(frozen=True)
class Mixture:
    """The numbers of one mixture, or of a batch of them (the same leading dimensions everywhere), float64.

    beta0 [..., k], beta1 [..., k, d]: the gate. a [..., k, d], b [..., k], v [..., k]: expert i is
    N(a_i·x + b_i, v_i), v a variance. tau [...]: temperature, None where the gate has none.
    """

    beta0: Tensor
    beta1: Tensor
    a: Tensor
    b: Tensor
    v: Tensor
    tau: Tensor | None = None

    @property
    def experts(self) -> int:
        """k."""
        return self.beta0.shape[-1]

    def __getitem__(self, index) -> Mixture:
        """Some of a batch."""
        tau = None if self.tau is None else self.tau[index]
        return Mixture(
            self.beta0[index], self.beta1[index], self.a[index], self.b[index], self.v[index], tau
        )

    def merged(self, index: Tensor, other: Mixture) -> Mixture:
        """With `other` in the places of a batch that an index names."""
        found = {}
        for name in ("beta0", "beta1", "a", "b", "v", "tau"):
            mine = getattr(self, name)
            if mine is not None:
                mine = mine.clone()
                mine[index] = getattr(other, name)
            found[name] = mine
        return Mixture(**found)

    def canonical(self, gate: Gate) -> Mixture:
        """The same mixture with its last atom's gate at zero.

        A shift of every beta0 changes nothing, and where phi is the identity no shift of every beta1 does.
        """
        beta1 = (
            self.beta1 - self.beta1[..., -1:, :] if gate.activation == "identity" else self.beta1
        )
        return replace(self, beta0=self.beta0 - self.beta0[..., -1:], beta1=beta1)


def expert_log_density(x: Tensor, y: Tensor, mixture: Mixture) -> Tensor:
    """log N(y; a_i·x + b_i, v_i): x [..., n, d], y [..., n] -> [..., n, k]."""
    mean = x @ mixture.a.transpose(-1, -2) + mixture.b.unsqueeze(-2)
    v = mixture.v.unsqueeze(-2)
    return -0.5 * ((y.unsqueeze(-1) - mean).square() / v + torch.log(2 * math.pi * v))


def joint(x: Tensor, y: Tensor, mixture: Mixture, gate: Gate) -> Tensor:
    """log g_i(x) N(y; ...) [..., n, k]."""
    gates = log_gates(x, mixture.beta1, mixture.beta0, gate, mixture.tau)
    return gates + expert_log_density(x, y, mixture)


def log_likelihood(x: Tensor, y: Tensor, mixture: Mixture, gate: Gate) -> Tensor:
    """Sum over the data of log p(y | x), [...]."""
    return joint(x, y, mixture, gate).logsumexp(-1).sum(-1)


def responsibilities(x: Tensor, y: Tensor, mixture: Mixture, gate: Gate) -> tuple[Tensor, Tensor]:
    """The E-step: r [..., n, k], which sum to one and are exactly 0 where an expert does not answer, and the
    log-likelihood [...].
    """
    found = joint(x, y, mixture, gate)
    total = found.logsumexp(-1, keepdim=True)
    return (found - total).exp(), total.squeeze(-1).sum(-1)


def weighted_least_squares(
    x: Tensor, y: Tensor, r: Tensor, before: Mixture
) -> tuple[Tensor, Tensor, Tensor]:
    """The M-step of the experts: a, b and v that maximise the weighted likelihood exactly.

    r [..., n, k]. An expert without data keeps what it had.
    """
    n = x.shape[-2]
    design = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    # One product for all moments: rows of r against the columns 1, x, x x', y, x y, y y.
    d = design.shape[-1]
    outer = (design.unsqueeze(-1) * design.unsqueeze(-2)).flatten(-2)
    moments = torch.cat([outer, design * y.unsqueeze(-1), y.square().unsqueeze(-1)], -1)
    found = r.transpose(-1, -2) @ moments
    gram = found[..., : d * d].unflatten(-1, (d, d))
    right = found[..., d * d : d * d + d]
    mass = gram[..., -1, -1]
    scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=torch.finfo(x.dtype).tiny)
    ridge = 1e-13 * scale[..., None, None] * torch.eye(d, dtype=x.dtype)
    solution = torch.linalg.solve(gram + ridge, right)
    # Residuals one by one: from moments they would cancel where an expert fits almost exactly.
    residual = y.unsqueeze(-1) - (design @ solution.transpose(-1, -2))
    v = (r * residual.square()).sum(-2) / mass.clamp(min=SMALLEST_MASS)
    empty = (mass < SMALLEST_MASS * n) | ~torch.isfinite(solution).all(-1)
    a = torch.where(empty.unsqueeze(-1), before.a, solution[..., :-1])
    b = torch.where(empty, before.b, solution[..., -1])
    return a, b, torch.where(empty, before.v, v.clamp(min=SMALLEST_VARIANCE))


def sample(x: Tensor, mixture: Mixture, gate: Gate, generator: torch.Generator) -> Tensor:
    """y [..., n] given x [..., n, d]."""
    gates = log_gates(x, mixture.beta1, mixture.beta0, gate, mixture.tau).exp()
    uniform = torch.rand((*gates.shape[:-1], 1), generator=generator, dtype=x.dtype)
    chosen = (gates.cumsum(-1) < uniform).sum(-1, keepdim=True).clamp(max=mixture.experts - 1)
    # A rounding of the sum must not choose an expert that does not answer.
    chosen = torch.where(gates.gather(-1, chosen) > 0, chosen, gates.argmax(-1, keepdim=True))
    mean = x @ mixture.a.transpose(-1, -2) + mixture.b.unsqueeze(-2)
    deviation = mixture.v.sqrt().unsqueeze(-2).expand_as(mean)
    noise = torch.randn(gates.shape[:-1], generator=generator, dtype=x.dtype)
    return (mean.gather(-1, chosen) + deviation.gather(-1, chosen) * noise.unsqueeze(-1)).squeeze(
        -1
    )

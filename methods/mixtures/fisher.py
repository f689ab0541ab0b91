"""The Fisher information of a mixture at its true numbers, and the direction that cannot be estimated.

2401.13875, section 3: with phi the identity, du/dtau = -(beta1 · du/dbeta1) / tau for u = exp(beta1·x / tau) N(y), an
interaction by which tau and beta1 cannot be told apart; the information is singular. For sigmoid, tanh and GELU, which
are first-order independent, it is regular.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.mixtures.gates import Gate
from methods.mixtures.mixture import Mixture, joint, sample

SINGULAR = 1e-9
"""Below this share of the largest eigenvalue a direction counts as without information."""


@dataclass(frozen=True)
class Information:
    """eigenvalues, ascending [p]; directions: eigenvectors as columns [p, p]; names of the p numbers."""

    eigenvalues: Tensor
    directions: Tensor
    names: list[str]

    def without(self, number: int) -> Information:
        """With one number fixed: the information of the others."""
        matrix = self.directions @ torch.diag(self.eigenvalues) @ self.directions.T
        kept = [i for i in range(len(self.names)) if i != number]
        values, directions = torch.linalg.eigh(matrix[kept][:, kept])
        return Information(values, directions, [self.names[i] for i in kept])

    @property
    def null(self) -> list[str]:
        """Each direction without information, in words."""
        least = SINGULAR * float(self.eigenvalues[-1])
        found = []
        for value, direction in zip(self.eigenvalues, self.directions.T, strict=True):
            if float(value) < least:
                terms = sorted(
                    ((float(c), n) for c, n in zip(direction, self.names, strict=True)),
                    key=lambda term: -abs(term[0]),
                )
                found.append(" ".join(f"{c:+.2f} {n}" for c, n in terms if abs(c) > 0.05))
        return found


def names_of(mixture: Mixture) -> list[str]:
    """The free numbers of a mixture whose last beta0 is fixed, in the order of `packed`."""
    k, d = mixture.beta1.shape
    found = [f"beta0_{i + 1}" for i in range(k - 1)]
    found += [f"beta1_{i + 1}{_axis(j, d)}" for i in range(k) for j in range(d)]
    found += ["tau"] if mixture.tau is not None else []
    found += [f"a_{i + 1}{_axis(j, d)}" for i in range(k) for j in range(d)]
    return found + [f"b_{i + 1}" for i in range(k)] + [f"v_{i + 1}" for i in range(k)]


def _axis(j: int, d: int) -> str:
    return "" if d == 1 else f"[{j + 1}]"


def packed(mixture: Mixture) -> Tensor:
    """The free numbers as one vector [p]."""
    tau = [] if mixture.tau is None else [mixture.tau.reshape(1)]
    parts = [mixture.beta0[:-1], mixture.beta1.flatten(), *tau, mixture.a.flatten()]
    return torch.cat([*parts, mixture.b, mixture.v])


def unpacked(theta: Tensor, like: Mixture) -> Mixture:
    """The inverse of `packed`."""
    k, d = like.beta1.shape
    sizes = [k - 1, k * d, *([1] if like.tau is not None else []), k * d, k, k]
    beta0, beta1, *tau, a, b, v = theta.split(sizes)
    return Mixture(
        torch.cat([beta0, like.beta0[-1:]]),
        beta1.view(k, d),
        a.view(k, d),
        b,
        v,
        tau[0].squeeze() if tau else None,
    )


def scores(x: Tensor, y: Tensor, mixture: Mixture, gate: Gate) -> Tensor:
    """d log p(y | x) / d theta for every row, [n, p], by automatic differentiation."""

    def one(theta: Tensor, row: Tensor, value: Tensor) -> Tensor:
        return joint(row[None], value[None], unpacked(theta, mixture), gate).logsumexp(-1)[0]

    return torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(packed(mixture), x, y)


def information(
    mixture: Mixture, gate: Gate, x: Tensor, generator: torch.Generator, chunk: int = 20_000
) -> Information:
    """E[score score'] over rows x [n, d] with y drawn from the mixture itself."""
    total = 0.0
    for part in x.split(chunk):
        found = scores(part, sample(part, mixture, gate, generator), mixture, gate)
        total = total + found.T @ found
    eigenvalues, directions = torch.linalg.eigh(total / len(x))
    return Information(eigenvalues, directions, names_of(mixture))

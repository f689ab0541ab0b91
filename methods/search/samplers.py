"""From architecture parameters to architecture weights: alpha [n] -> a [n], for one decision.

All but `softmax` and `sparsemax` draw from torch's default generator, which the training loop seeds
and keeps. `discrete` samplers give a one-hot vector, the others a point of the simplex.

DARTS (arXiv 1806.09055): softmax; the published TangleNAS takes sparsemax (arXiv 1602.02068).
GDAS (arXiv 1910.04465): hard Gumbel softmax with a straight-through gradient.
DrNAS (arXiv 2006.10355): a draw from Dirichlet(elu(alpha) + 1), differentiated pathwise.
SPOS (arXiv 1904.00420): a uniform option, no parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from methods.study.errors import RetrofitError, choices

LEAST = 1e-4
"""A Dirichlet concentration no smaller than this: below, float32 draws are 0/0."""


def softmax(alpha: Tensor) -> Tensor:
    """exp(alpha) / sum exp(alpha)."""
    return alpha.softmax(-1)


def sparsemax(alpha: Tensor) -> Tensor:
    """The point of the simplex nearest to alpha: max(alpha - tau, 0) with the tau that sums to 1.

    Martins and Astudillo 2016, algorithm 1; along the last dimension, one vector or many.
    """
    ordered, _ = alpha.sort(-1, descending=True)
    ranks = torch.arange(1, alpha.shape[-1] + 1, device=alpha.device, dtype=alpha.dtype)
    sums = ordered.cumsum(-1)
    support = (1 + ranks * ordered > sums).sum(-1, keepdim=True)
    tau = (sums.gather(-1, support - 1) - 1) / support
    return (alpha - tau).clamp_min(0)


def gumbel(alpha: Tensor, temperature: float) -> Tensor:
    """One-hot argmax of (log softmax(alpha) + Gumbel noise) / temperature; the gradient is the softmax's."""
    noise = -torch.empty_like(alpha).exponential_().log()
    soft = ((alpha.log_softmax(-1) + noise) / temperature).softmax(-1)
    hard = functional.one_hot(soft.argmax(-1), alpha.shape[-1]).to(soft)
    return hard - soft.detach() + soft


def concentration(alpha: Tensor) -> Tensor:
    """elu(alpha) + 1, positive."""
    return functional.elu(alpha) + 1


def dirichlet(alpha: Tensor) -> Tensor:
    """A draw from Dirichlet(elu(alpha) + 1), differentiable in alpha."""
    return torch.distributions.Dirichlet(concentration(alpha).clamp_min(LEAST)).rsample()


def uniform(alpha: Tensor) -> Tensor:
    """One-hot at a uniform option; alpha gives the length only."""
    count = alpha.shape[-1]
    return functional.one_hot(torch.randint(count, alpha.shape[:-1]), count).to(alpha)


def temperature(epoch: int, epochs: int, first: float = 10.0, last: float = 0.1) -> float:
    """GDAS' temperature: linear from ``first`` in epoch 0 to ``last`` in the last epoch."""
    return first if epochs < 2 else first + (last - first) * epoch / (epochs - 1)


@dataclass(frozen=True)
class Sampler:
    """draw: alpha -> weights. learned: alpha has a gradient. discrete: the weights are one-hot."""

    name: str
    draw: Callable[[Tensor], Tensor]
    learned: bool = True
    discrete: bool = False


SAMPLERS = ("darts", "darts_sparsemax", "drnas", "gdas", "spos")


def sampler(name: str, epoch: int = 0, epochs: int = 1) -> Sampler:
    """The sampler of that name in an epoch. Raises RetrofitError for an unknown one."""
    known = {
        "darts": Sampler(name, softmax),
        "darts_sparsemax": Sampler(name, sparsemax),
        "drnas": Sampler(name, dirichlet),
        "gdas": Sampler(
            name, partial(gumbel, temperature=temperature(epoch, epochs)), discrete=True
        ),
        "spos": Sampler(name, uniform, learned=False, discrete=True),
    }
    if name not in known:
        raise RetrofitError(f"there is no sampler '{name}'; {choices(name, known)}")
    return known[name]

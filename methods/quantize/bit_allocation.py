"""Bits by layer: what each width costs each layer, and the best choice under a budget.

*Fidelity.* The paper's importance-based mixed precision could not be read; this is a reconstruction:
importances from first- and second-order Taylor terms of the loss, and an exact choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor

from methods.study.errors import RetrofitError

LEVELS = 1_000_000
"""Levels of spending that are told apart: a second for a hundred layers."""


def taylor(gradient: Tensor, delta: Tensor) -> float:
    """sum |g dw|: the first-order change of the loss, whatever the signs."""
    return float((gradient * delta).abs().sum())


def fisher(square: Tensor, delta: Tensor) -> float:
    """Half the sum of g^2 dw^2: the second-order change with the empirical Fisher information.

    square: mean squared gradient of each weight.
    """
    return float((square * delta.square()).sum() / 2)


def sqnr(weight: Tensor, delta: Tensor) -> float:
    """Relative squared error of the weights: the inverse of their signal-to-noise ratio."""
    return float(delta.square().sum() / weight.square().sum().clamp(min=1e-12))


def allocate(
    costs: Sequence[Sequence[float]],
    sizes: Sequence[int],
    candidates: Sequence[int],
    average: float,
) -> list[int]:
    """The width of each layer: least total cost with at most `average` bits a weight.

    costs: `[layers][candidates]`; sizes: weights of each layer. Exact, by dynamic programming over the
    bits spent beyond the narrowest width, in units of the sizes' greatest common divisor; beyond
    `LEVELS` of these, what a layer spends is rounded up, so that the budget still holds. Of equal choices
    the one with fewer bits in earlier layers.
    Raises RetrofitError where even the narrowest width is over the budget.
    """
    order = sorted(range(len(candidates)), key=lambda i: candidates[i])
    widths = [candidates[i] for i in order]
    unit = gcd(*sizes)
    weights = [size // unit for size in sizes]
    extra = [b - widths[0] for b in widths]
    budget = int((average - widths[0]) * sum(weights) + 1e-9)
    if budget < 0:
        raise RetrofitError(
            f"average_bits {average} is below the narrowest candidate of {widths[0]} bits"
        )
    coarse = max(1, budget // LEVELS)
    levels = budget // coarse
    best = torch.full((levels + 1,), float("inf"), dtype=torch.float64)
    best[0] = 0.0
    choices = []
    for row, weight in zip(costs, weights, strict=True):
        trial = torch.full((len(widths), levels + 1), float("inf"), dtype=torch.float64)
        for k, i in enumerate(order):
            spent = -(-extra[k] * weight // coarse)
            if spent <= levels:
                trial[k, spent:] = best[: levels + 1 - spent] + row[i]
        best, choice = trial.min(0)
        choices.append(choice)
    at = int(best.argmin())
    found = []
    for choice, weight in zip(reversed(choices), reversed(weights), strict=True):
        k = int(choice[at])
        found.append(widths[k])
        at -= -(-extra[k] * weight // coarse)
    return found[::-1]

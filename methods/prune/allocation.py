"""Which layer keeps how many weights: uniform, Erdős-Rényi and its kernel form, to the last weight.

ER: Mocanu et al. 2018; ERK: Evci et al., "Rigging the Lottery", ICML 2020 (arXiv 1911.11134).
A layer's budget counts its weights times what one weight costs: 1 to hold parameters constant, the
number of output positions to hold FLOPs constant. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from methods.study.errors import RetrofitError, choices

Distribution = Literal["uniform", "er", "erk"]
DISTRIBUTIONS = ("uniform", "er", "erk")


def raw_density(shape: Sequence[int], distribution: Distribution) -> float:
    """Density up to a common factor: 1, (out + in)/(out in), or the sum over the product of the shape."""
    if distribution not in DISTRIBUTIONS:
        raise RetrofitError(
            f"there is no distribution '{distribution}'; {choices(distribution, DISTRIBUTIONS)}"
        )
    if distribution == "uniform":
        return 1.0
    sides = shape[:2] if distribution == "er" else shape
    return sum(sides) / math.prod(sides)


def densities(
    shapes: Sequence[Sequence[int]],
    costs: Sequence[float],
    budget: float,
    distribution: Distribution = "uniform",
) -> list[float]:
    """Density of each layer so that the sum of cost x weights x density is the budget.

    shapes: of the weights. costs: of one weight of each layer. A layer whose share exceeds 1 becomes
    dense and leaves the rest to the others. A budget beyond all weights makes every layer dense.
    Raises RetrofitError for a negative budget.
    """
    if budget < 0:
        raise RetrofitError(f"a budget of {budget:.6g} for the masked layers is less than nothing")
    full = [cost * math.prod(shape) for shape, cost in zip(shapes, costs, strict=True)]
    raw = [raw_density(shape, distribution) for shape in shapes]
    dense: set[int] = set()
    while len(dense) < len(full):
        rest = [i for i in range(len(full)) if i not in dense]
        left = budget - sum(full[i] for i in dense)
        factor = left / sum(full[i] * raw[i] for i in rest)
        over = {i for i in rest if factor * raw[i] > 1}
        if not over:
            return [1.0 if i in dense else max(0.0, factor * raw[i]) for i in range(len(full))]
        # As published: only the layer with the largest share becomes dense before shares are taken anew.
        top = max(raw[i] for i in over)
        dense |= {i for i in over if raw[i] == top}
    return [1.0] * len(full)


def exact_counts(
    numbers: Sequence[int], costs: Sequence[int], shares: Sequence[float], budget: int
) -> list[int]:
    """Whole numbers of weights near numbers x shares whose cost fills the budget as far as it goes.

    What rounding down leaves is given out one weight at a time, dearest layers first; in the end no
    layer that is not full could take another weight. Where one cost divides all, nothing is left.
    """
    counts = [math.floor(n * d + 1e-9) for n, d in zip(numbers, shares, strict=True)]
    left = budget - sum(c * n for c, n in zip(costs, counts, strict=True))
    while left < 0:  # only rounding of the shares can be to blame, so it is a few weights
        last = max(range(len(counts)), key=lambda i: counts[i])
        counts[last] -= 1
        left += costs[last]
    for i in sorted(range(len(counts)), key=lambda i: -costs[i]):
        more = min(left // costs[i], numbers[i] - counts[i])
        counts[i] += more
        left -= more * costs[i]
    return counts

"""Sizes of the Sparse-IFT families: how much larger a layer may be at sparsity s for the same FLOPs.

Thangarasa et al., "Sparse-IFT: Sparse Iso-FLOP Transformations for Maximizing Training Efficiency",
ICML 2024 (arXiv 2303.11525), section 3. ``d_in`` of a convolution is kernel height x width x input
channels. No torch: a study is checked with these functions before anything runs.
"""

from __future__ import annotations

import math
from typing import Literal

from methods.study.errors import RetrofitError

Family = Literal["dense", "wide", "parallel", "factorized", "doped"]
WHOLE = 1e-9
"""How far 1/(1-s) may be from a whole number: 1/(1-.9) is 10.000000000000002."""


def check_sparsity(sparsity: float) -> None:
    """Raise RetrofitError unless 0 <= s < 1."""
    if not 0 <= sparsity < 1:
        raise RetrofitError(f"sparsity {sparsity}: must be at least 0 and less than 1")


def nearest_sparsities(sparsity: float) -> tuple[float, float]:
    """The sparsities 1 - 1/k below and above for which k = 1/(1-s) is whole."""
    check_sparsity(sparsity)
    below = math.floor(1 / (1 - sparsity) + WHOLE)
    return 1 - 1 / below, 1 - 1 / (below + 1)


def branches(sparsity: float) -> int:
    """k = 1/(1-s), the number of parallel branches (and the square of Wide's factor).

    Raises RetrofitError where that is no whole number: the transformation would not keep the FLOPs.
    """
    check_sparsity(sparsity)
    exact = 1 / (1 - sparsity)
    if abs(exact - round(exact)) > WHOLE * exact:
        low, high = nearest_sparsities(sparsity)
        raise RetrofitError(
            f"sparsity {sparsity}: 1/(1-s) = {exact:.4g} is no whole number, and {round(exact)} times "
            f"the size would cost {(1 - sparsity) * round(exact):.3g} times the FLOPs; the nearest "
            f"allowed are {low:.6g} and {high:.6g}, or `resolve: true` takes the nearer one"
        )
    return round(exact)


def resolved(sparsity: float) -> float:
    """s' = 1 - 1/k for the whole number k nearest to 1/(1-s)."""
    check_sparsity(sparsity)
    return 1 - 1 / round(1 / (1 - sparsity))


def wide_factor(sparsity: float) -> float:
    """k = sqrt(1/(1-s)): the whole network becomes k times as wide, since (1-s) k^2 = 1."""
    check_sparsity(sparsity)
    return math.sqrt(1 / (1 - sparsity))


def widened(width: int, factor: float) -> int:
    """The width times the factor, cut off as published: 64 becomes 90, 128 and 202 at .5, .75, .9."""
    return math.floor(width * factor + WHOLE)


def factorized_rank(sparsity: float, d_in: int, d_out: int) -> int:
    """d = ceil(D_in D_out / ((1-s)(D_in + D_out))), U and V both at sparsity s.

    In floating point as published, so that 144.00000000000003 becomes 145; the masks, which are
    solved for the budget afterwards, lose nothing by it.
    """
    check_sparsity(sparsity)
    return math.ceil(d_in * d_out / ((1 - sparsity) * (d_in + d_out)))


def sparse_u_rank(sparsity: float, d_in: int, d_out: int) -> int:
    """d = ceil(D_in D_out / ((1-s) D_in + D_out)), where only U is sparse."""
    check_sparsity(sparsity)
    return math.ceil(d_in * d_out / ((1 - sparsity) * d_in + d_out))


def doped_rank(sparsity: float, d_in: int, d_out: int) -> int:
    """d = floor(s D_in D_out / (D_in + D_out)), a dense term beside a sparse one; 0: no dense term."""
    check_sparsity(sparsity)
    return math.floor(sparsity * d_in * d_out / (d_in + d_out))


def wide_factorized_rank(d_in: int, d_out: int, wide_in: int, wide_out: int) -> int:
    """Dense rank of a layer in a network made wider: ceil(D_in D_out of old / (D_in + D_out of new)).

    The published code finds the old widths by dividing the new ones and cutting off, so 64 widened to
    90 counts as 63.
    """
    return math.ceil(d_in * d_out / (wide_in + wide_out))


def solve_sparsity(budget: float, dense: float, maskable: float) -> float:
    """The sparsity at which the masked part just fits: s = 1 - (budget - dense) / maskable.

    dense: cost of all that stays dense. maskable: cost of the rest without masks, in the same unit.
    Raises RetrofitError where no sparsity fits: the dense part alone exceeds the budget.
    """
    if dense > budget:
        raise RetrofitError(
            f"the layers that stay dense cost {dense:.6g}, more than the whole budget of {budget:.6g}; "
            "choose a lower sparsity (a smaller network) or exempt fewer layers"
        )
    if maskable <= 0:
        return 0.0
    return max(0.0, 1 - (budget - dense) / maskable)

"""The integer grid: from weights to codes and back, as pure functions.

A row of weights is cut into groups of `group_size` input features; a group's `scale` s and `zero` z
give the points (q - z) s for q in 0 … 2^bits - 1. Everything works on grouped weights
`[out, groups, g]`; `pseudo_quantize` is the whole way for a matrix `[out, in]`.

*Fidelity.* Min-max ranges and rounding (half to even) are those of AWQ's `pseudo_quantize_tensor`
and of GPTQ's `Quantizer`, which agree except in two places. AWQ does not pull zero into the range:
its zero point is then clamped into the codes, and a group of weights in 0.5 … 0.9 loses its upper
part. Here zero is always in the range; `in_range=False` gives the published behaviour. For
symmetric grids AWQ's code fails on an assertion; GPTQ's (and compressed-tensors') convention is
taken: s = 2 max|w| / (2^bits - 1), zero at 2^(bits-1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from methods.export.packed import PackedWeight

if TYPE_CHECKING:
    from methods.quantize.params import GridParams

SMALLEST_RANGE = 1e-5
"""Of a group, as in AWQ's code: a group of zeros must not divide by zero."""


@dataclass(frozen=True)
class Grid:
    """What the points of a grid depend on besides the weights."""

    bits: int
    group_size: int = -1
    symmetric: bool = False
    in_range: bool = True
    scale_dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, params: GridParams) -> Grid:
        """The grid that a study asks for."""
        return cls(
            params.bits,
            params.group_size,
            params.symmetric,
            params.zero_point == "in_range",
            getattr(torch, params.scale_dtype),
        )

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1


def grouped(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """`[out, in]` as `[out, groups, g]` without a copy; group_size -1 makes one group."""
    rows, columns = weight.shape
    g = columns if group_size == -1 else group_size
    return weight.reshape(rows, columns // g, g)


def weight_range(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and largest weight of every group, each `[out, groups]`."""
    # amin and amax are vectorised on CPUs, aminmax over a last dimension is not (9 times slower).
    return groups.amin(-1), groups.amax(-1)


def scale_and_zero(
    low: torch.Tensor, high: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero (both float32 of the shape of `low`) of a grid that spans `low … high`.

    The scale is rounded to the grid's storage type first, so that codes derived from it agree with
    what is stored (a zero after rounding becomes the type's smallest positive number).
    """
    if grid.symmetric:
        high = torch.maximum(low.abs(), high.abs())
        low = -high
    elif grid.in_range:
        low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low).clamp(min=SMALLEST_RANGE) / grid.top
    if grid.scale_dtype != torch.float32:
        limits = torch.finfo(grid.scale_dtype)
        smallest = limits.smallest_normal * limits.eps  # the least subnormal
        scale = scale.clamp(smallest, limits.max).to(grid.scale_dtype).float()
    if grid.symmetric:
        return scale, torch.full_like(scale, 2.0 ** (grid.bits - 1))
    return scale, (-torch.round(low / scale)).clamp_(0, grid.top)


def to_codes(
    groups: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, grid: Grid
) -> torch.Tensor:
    """Codes (still float, same shape as `groups`): clamp(round(w / s) + z, 0, 2^bits - 1)."""
    codes = groups / scale.unsqueeze(-1)
    return codes.round_().add_(zero.unsqueeze(-1)).clamp_(0, grid.top)


def from_codes(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Weights (q - z) s of grouped codes; overwrites `codes`."""
    return codes.sub_(zero.unsqueeze(-1)).mul_(scale.unsqueeze(-1))


def pseudo_quantize(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The nearest point of the min-max grid for every weight of a float32 matrix `[out, in]`."""
    groups = grouped(weight, grid.group_size)
    scale, zero = scale_and_zero(*weight_range(groups), grid)
    return from_codes(to_codes(groups, scale, zero, grid), scale, zero).view_as(weight)


def pack(weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, grid: Grid) -> PackedWeight:
    """Round `weight` `[out, in]` on given grids `[out, groups]` and keep the codes.

    Packing `PackedWeight.dequantize()` again with its stored scale and zero gives the same codes;
    with a new min-max range it need not, because the rounded weights may span one point less.
    """
    codes = to_codes(grouped(weight, grid.group_size), scale, zero, grid)
    return PackedWeight(
        codes.view_as(weight).to(torch.uint8),
        scale.contiguous(),
        zero.to(torch.int32).contiguous(),
        grid.bits,
        grid.group_size,
        grid.symmetric,
    )


def weight_error(delta: torch.Tensor) -> torch.Tensor:
    """Sum over a group of |change|^2.4, the norm of GPTQ's code; overwrites `delta`."""
    return delta.abs_().pow_(2.4).sum(-1)


def round_to_nearest(weight: torch.Tensor, grid: Grid, span: str = "minmax") -> PackedWeight:
    """The packed form of `weight` `[out, in]` on its own grid; span: "minmax" or "mse"."""
    groups = grouped(weight, grid.group_size)
    low, high = weight_range(groups)
    if span == "mse":
        low, high = least_error_range(groups, low, high, grid)
    return pack(weight, *scale_and_zero(low, high, grid), grid)


def least_error_range(
    groups: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    grid: Grid,
    steps: int = 100,
    largest_shrink: float = 0.8,
    error: Callable[[torch.Tensor], torch.Tensor] = weight_error,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The range `(1 - i/steps) (low … high)`, i < steps * largest_shrink, of least error, per group.

    error: from the change `[out, groups, g]` of the weights to `[out, groups]`; the default and
    the numbers are those of GPTQ's code (`mse=True`).
    """
    if grid.symmetric or grid.in_range:
        low, high = low.clamp(max=0), high.clamp(min=0)
    best = torch.full_like(low, float("inf"))
    best_low, best_high = low.clone(), high.clone()
    for i in range(max(1, int(largest_shrink * steps))):
        part = 1 - i / steps
        scale, zero = scale_and_zero(part * low, part * high, grid)
        rounded = from_codes(to_codes(groups, scale, zero, grid), scale, zero)
        trial = error(rounded.sub_(groups))
        better = trial < best
        best = torch.where(better, trial, best)
        best_low = torch.where(better, part * low, best_low)
        best_high = torch.where(better, part * high, best_high)
    return best_low, best_high

"""GPTQ's solver (Frantar et al., 2210.17323): round a layer's weight column by column.

The layer's output error is tr(D H D^T) with H the second moment of its inputs. After a column is
rounded, the columns that are left are moved by the amount that makes up for it best, which the
Cholesky factor of H^-1 gives for all columns at once (Section 3.3, Steps 1 to 3).

*Fidelity.* Follows the published code: dead columns (no input) are set to zero, `damping` times the
mean diagonal is added to H, the rest is updated once per `block_columns` columns, columns are taken
by descending diagonal (`act_order`), grids are those of the columns as compensated so far or, with
`static_groups`, of the original weight. The published code takes a group's range from weights that
miss the compensation of the current block of columns, and a row's range from weights that include
dead columns; `published_ranges=True` does the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from methods.export.packed import PackedWeight
from methods.quantize.grid import (
    Grid,
    grouped,
    least_error_range,
    scale_and_zero,
    weight_range,
)
from methods.quantize.output_error import diagonal_blocks, group_output_error
from methods.study.errors import RetrofitError

LARGEST_DAMPING = 10.0
"""Times the mean diagonal; with that much even inputs of rank one have a factor."""


@dataclass
class Solved:
    """packed: the rounded weight. row_loss: for each row `[out]`, sum of squared compensated errors
    / 2; their sum equals tr(D (H + damping I) D^T) / 2 for the H given (dead columns apart).
    """

    packed: PackedWeight
    row_loss: torch.Tensor

    @property
    def loss(self) -> float:
        """The published code's loss of the layer."""
        return float(self.row_loss.sum())

    def split(self, rows: list[int]) -> list[Solved]:
        """The parts of a stack of layers with that many rows each."""
        p = self.packed
        parts = zip(
            *(t.split(rows) for t in (p.codes, p.scale, p.zero, self.row_loss)), strict=True
        )
        return [
            Solved(PackedWeight(codes, scale, zero, p.bits, p.group_size, p.symmetric), row_loss)
            for codes, scale, zero, row_loss in parts
        ]


@dataclass
class Factor:
    """What a layer's inputs contribute, shared by all layers that have the same inputs.

    order: columns in the order of rounding `[in]`. upper: U with H^-1 = U^T U, in that order.
    dead: columns without input `[in]` (bool), in the layer's own order.
    """

    order: torch.Tensor
    upper: torch.Tensor
    dead: torch.Tensor
    damping: float


def factorize(hessian: torch.Tensor, damping: float = 0.01, act_order: bool = False) -> Factor:
    """Prepare H, float32 `[in, in]` (any positive multiple of X^T X); it is not changed.

    Damping is raised tenfold while H is numerically singular, up to ten times the mean diagonal.
    Raises RetrofitError when it still is, or is not finite.
    """
    if not torch.isfinite(hessian).all():
        raise RetrofitError("the second moments of the layer's inputs are not finite")
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    order = torch.arange(len(diagonal), device=hessian.device)
    if act_order:
        order = torch.argsort(diagonal, descending=True, stable=True)
    ordered = hessian[order][:, order]
    ordered.diagonal().copy_(torch.where(dead, torch.ones_like(diagonal), diagonal)[order])
    mean = float(ordered.diagonal().mean())
    share = damping
    while share <= LARGEST_DAMPING:
        damped = ordered + share * mean * torch.eye(len(ordered), device=ordered.device)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return Factor(order, upper, dead, share * mean)
        share *= 10
    raise RetrofitError(
        "the second moments of the layer's inputs are singular even with damping "
        f"{share / 10:g}; use more calibration tokens"
    )


def solve(
    weight: torch.Tensor,
    factor: Factor,
    grid: Grid,
    block_columns: int = 128,
    static_groups: bool = False,
    span: str = "minmax",
    hessian: torch.Tensor | None = None,
    published_ranges: bool = False,
) -> Solved:
    """Round `weight`, float32 `[out, in]` (not changed), against a factorised Hessian.

    span: range of the grids, "minmax", "mse" or "output"; the last needs `static_groups` and the
    `hessian` itself. static_groups is needed wherever columns of a group are not taken in a row.
    """
    rows, columns = weight.shape
    g = columns if grid.group_size == -1 else grid.group_size
    original, weight = weight, weight.masked_fill(factor.dead, 0.0)
    # Columns are worked on as contiguous rows, in the order of rounding.
    rest = weight.T[factor.order].contiguous()
    codes = torch.empty_like(rest)
    scale = torch.empty(rows, columns // g, device=weight.device)
    zero = torch.empty_like(scale)
    if static_groups or g == columns:
        ranged = original if published_ranges and not static_groups else weight
        scale, zero = _grids(ranged, grid, span, hessian)
    owner = (factor.order // g).tolist()
    row_loss = torch.zeros(rows, device=weight.device)
    for start in range(0, columns, block_columns):
        stop = min(start + block_columns, columns)
        block = rest[start:stop].clone()
        errors = torch.empty_like(block)
        upper = factor.upper[start:stop, start:stop].contiguous()
        pivots = upper.diagonal().tolist()
        for i, column in enumerate(range(start, stop)):
            group = owner[column]
            if not static_groups and g != columns and column % g == 0:
                part = _group_columns(
                    rest, block, errors, factor, start, column, g, published_ranges
                )
                scale[:, group : group + 1], zero[:, group : group + 1] = _grids(
                    part.T,
                    Grid(grid.bits, -1, grid.symmetric, grid.in_range, grid.scale_dtype),
                    span,
                )
            s, z, w = scale[:, group], zero[:, group], block[i]
            q = (w / s).round_().add_(z).clamp_(0, grid.top)
            codes[column] = q
            error = errors[i]
            torch.sub(w, q.sub(z).mul_(s), out=error).div_(pivots[i])
            if i + 1 < stop - start:
                block[i + 1 :].addr_(upper[i, i + 1 :], error, alpha=-1)
        row_loss += errors.square().sum(0) / 2
        if stop < columns:
            rest[stop:].addmm_(factor.upper[start:stop, stop:].T, errors, alpha=-1)
    whole = torch.empty_like(codes)
    whole[factor.order] = codes
    packed = PackedWeight(
        whole.T.to(torch.uint8).contiguous(),
        scale.contiguous(),
        zero.to(torch.int32).contiguous(),
        grid.bits,
        grid.group_size,
        grid.symmetric,
    )
    return Solved(packed, row_loss)


def _grids(
    weight: torch.Tensor, grid: Grid, span: str, hessian: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero `[out, groups]` of the weight's own groups."""
    groups = grouped(weight, grid.group_size)
    low, high = weight_range(groups)
    if span == "mse":
        low, high = least_error_range(groups, low, high, grid)
    elif span == "output":
        gram = diagonal_blocks(hessian, grid.group_size)
        low, high = least_error_range(
            groups, low, high, grid, 20, 0.5, error=lambda delta: group_output_error(delta, gram)
        )
    return scale_and_zero(low, high, grid)


def _group_columns(
    rest: torch.Tensor,
    block: torch.Tensor,
    errors: torch.Tensor,
    factor: Factor,
    start: int,
    column: int,
    g: int,
    stale: bool,
) -> torch.Tensor:
    """The weights `[g, out]` of the group that starts at `column`, compensated so far.

    Columns beyond the current block get its errors only at its end; unless `stale`, what they will
    get from the errors so far is taken off here.
    """
    if stale:
        return rest[column : column + g]
    stop, done = start + len(block), column - start
    inside = block[done : done + g]
    if column + g <= stop:
        return inside
    ahead = factor.upper[start:column, stop : column + g].T @ errors[:done]
    return torch.cat([inside, rest[stop : column + g] - ahead])

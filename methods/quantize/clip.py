"""AWQ's clipping: the largest magnitude worth keeping, for every output row and group.

A smaller range makes finer steps for the many weights and errors for the few beyond it; the
published grid tries 1, 0.95, … of the maximum and keeps what changes the group's output least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from methods.quantize.grid import Grid, grouped, pseudo_quantize
from methods.quantize.output_error import group_output_error


@dataclass
class Clipped:
    """limit: largest magnitude `[out, groups]`; share: mean of limit over the maximum;
    error and error_before: mean squared output error with and without the limits.
    """

    limit: torch.Tensor
    share: float
    error: float
    error_before: float


def search_clip(
    weight: torch.Tensor,
    gram: torch.Tensor,
    grid: Grid,
    steps: int = 20,
    max_shrink: float = 0.5,
) -> Clipped:
    """Least output error over limits `max|w| (1 - i/steps)`, i < max_shrink * steps.

    weight: float32 `[out, in]`, not changed; gram: `[groups, g, g]` of its inputs (second moments).
    """
    groups = grouped(weight, grid.group_size)
    maximum = groups.abs().amax(-1)
    best = torch.full_like(maximum, float("inf"))
    limit = maximum.clone()
    before = None
    for i in range(max(1, int(max_shrink * steps))):
        trial = maximum * (1 - i / steps)
        rounded = pseudo_quantize(clamp_groups(weight, trial), grid)
        error = group_output_error(rounded.view_as(groups) - groups, gram)
        before = error if before is None else before
        better = error < best
        best = torch.where(better, error, best)
        limit = torch.where(better, trial, limit)
    share = (limit / maximum.clamp(min=1e-12)).where(maximum > 0, 1.0).mean()
    return Clipped(limit, float(share), float(best.sum(1).mean()), float(before.sum(1).mean()))


def clamp_groups(weight: torch.Tensor, limit: torch.Tensor) -> torch.Tensor:
    """`weight` `[out, in]` with the magnitudes of each group held at `limit` `[out, groups]`."""
    groups = weight.reshape(*limit.shape, -1)
    bound = limit.unsqueeze(-1)
    return torch.minimum(torch.maximum(groups, -bound), bound).view_as(weight)

"""AWQ's search for the scale of one group of layers (2306.00978, Section 3.2), as pure functions.

Weights `[out, in]` and scales are float32; a candidate's weight is Q(W diag(s)) diag(s)^-1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from methods.quantize.grid import Grid, grouped, pseudo_quantize

Loss = Callable[[torch.Tensor], torch.Tensor]
SMALLEST_SCALE = 1e-4


@dataclass(frozen=True)
class Candidate:
    """One scale `[in]` with the exponent r that made it; `duo`: whether weights entered."""

    ratio: float
    duo: bool
    scale: torch.Tensor


@dataclass
class Found:
    """The best candidate and what the others cost.

    loss_rtn: loss without scales, where it was among the candidates (None otherwise).
    """

    best: Candidate
    loss: float
    loss_rtn: float | None
    losses: list[float] = field(repr=False, default_factory=list)


def channel_magnitude(x: torch.Tensor) -> torch.Tensor:
    """Mean |x| of every channel, float32 `[in]`, over all rows of `x` `[…, in]`."""
    return x.flatten(0, -2).abs().mean(0, dtype=torch.float32)


def weight_magnitude(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """AutoAWQ's second factor: mean over rows of |w| relative to its group's maximum, `[in]`."""
    groups = grouped(weight, group_size).abs()
    return (groups / (groups.amax(-1, keepdim=True) + 1e-6)).view_as(weight).mean(0)


def normalize(scale: torch.Tensor) -> torch.Tensor:
    """s / sqrt(max s * min s): the geometric middle of the scales becomes 1."""
    scale = scale.clamp(min=SMALLEST_SCALE)
    return scale / (scale.max() * scale.min()).sqrt()


def candidate_scales(
    x: torch.Tensor,
    w: torch.Tensor | None = None,
    grid: int = 20,
    mode: Literal["act", "duo", "both"] = "act",
    include_identity: bool = True,
    include_r1: bool = False,
) -> list[Candidate]:
    """The scales to try, in the order of the published grid.

    x: mean |x| `[in]`. w: `weight_magnitude` `[in]`, for "duo" and "both". Exponents are i / grid,
    or i / (grid - 1) with `include_r1`; "both" divides the grid between the two forms.
    Identity comes first where the grid does not begin with it.
    """
    sizes = {"act": (grid, 0), "duo": (0, grid), "both": (grid - grid // 2, grid // 2)}[mode]
    found = []
    for duo, size in zip((False, True), sizes, strict=True):
        for i in range(size):
            r = i / max(size - 1, 1) if include_r1 else i / size
            scale = x.pow(r).clamp(min=SMALLEST_SCALE)
            if duo:
                scale = x.pow(r) / (w.pow(1 - r) + 1e-4)
            scale = normalize(scale)
            # Overflow of a power must not carry NaN into the weights.
            scale = torch.where(torch.isfinite(scale) & (scale > 0), scale, 1.0)
            found.append(Candidate(r, duo, scale))
    if include_identity and mode == "duo":
        found.insert(0, Candidate(0.0, False, torch.ones_like(x)))
    return found


def scaled_rounding(weight: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Q(W diag(s)) diag(s)^-1."""
    return pseudo_quantize(weight * scale, grid).div_(scale)


def search_scale(
    weight: torch.Tensor,
    candidates: list[Candidate],
    loss: Loss,
    grid: Grid,
    expand: Callable[[torch.Tensor], torch.Tensor] = lambda scale: scale,
    screen: Loss | None = None,
    shortlist: int = 4,
) -> Found | None:
    """The candidate of least loss, the first of equals; None when no loss is finite.

    weight: the layers' weights stacked, `[sum of outs, in]`; never changed. loss: from a rounded
    stack to a scalar. expand: from a candidate's scale to one for each input channel. screen: a
    cheaper loss; only its `shortlist` best candidates, and no scale, are then judged by `loss`.
    The others' losses are NaN.
    """

    def judge(candidate: Candidate, by: Loss) -> float:
        value = float(by(scaled_rounding(weight, expand(candidate.scale), grid)))
        return value if math.isfinite(value) else math.inf

    plain = next((i for i, c in enumerate(candidates) if c.ratio == 0 and not c.duo), None)
    judged = range(len(candidates))
    if screen is not None and shortlist < len(candidates):
        first = [judge(candidate, screen) for candidate in candidates]
        judged = sorted(judged, key=first.__getitem__)[:shortlist]
        judged = sorted({*judged, *([] if plain is None else [plain])})
    losses = [math.nan] * len(candidates)
    for i in judged:
        losses[i] = judge(candidates[i], loss)
    best = min(judged, key=losses.__getitem__)
    if losses[best] == math.inf:
        return None
    return Found(candidates[best], losses[best], None if plain is None else losses[plain], losses)

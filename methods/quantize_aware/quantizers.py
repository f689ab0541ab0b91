"""The equations of StatsQ, LSQ and LSQ+, as pure functions with their own gradients.

StatsQ: Liu et al., "Oscillation-free quantization for low-bit vision transformers" (2302.02210), section
4.1. LSQ: Esser et al. (1902.08153). LSQ+ adds learnable shifts around LSQ (Bhalgat et al., 2004.09576),
here as OFQ's code has them.

Codes are integers `low … high`. A *position* is the number that is rounded to a code: codes change
where a position crosses an integer plus one half.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SMALLEST_STEP = 1e-5
BELOW_ONE = 1 - 1e-6
"""Upper end of the clipped ratio w / s, so that the last code is n - 1."""


def code_range(bits: int, signed: bool = True) -> tuple[int, int]:
    """(low, high): [-2^(b-1), 2^(b-1) - 1] signed, [0, 2^b - 1] unsigned."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def statsq_scale(w: Tensor) -> Tensor:
    """s = 2 mean |w|, one for each index of the axis before the last (the row of a matrix).

    The mean runs over all other axes; the result has their length 1 and carries no gradient. A row of
    zeros gets the smallest normal number instead of a scale that cannot divide.
    """
    others = [axis for axis in range(w.dim()) if axis != w.dim() - 2]
    scale = 2 * w.detach().abs().mean(others, keepdim=True)
    return scale.clamp(min=torch.finfo(w.dtype).smallest_normal)


def statsq_position(w: Tensor, scale: Tensor, bits: int) -> Tensor:
    """clip(w / s, -1, 1 - 1e-6) n - 1/2 with n = 2^(b-1)."""
    return (w / scale).clamp(-1, BELOW_ONE) * 2 ** (bits - 1) - 0.5


def statsq_levels(codes: Tensor, scale: Tensor, bits: int) -> Tensor:
    """s (k + 1/2) / n: symmetric, 2^b levels, none of them zero."""
    return scale * (codes + 0.5) / 2 ** (bits - 1)


class _StatsQ(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, w: Tensor, scale: Tensor, bits: int) -> Tensor:
        return statsq_levels(statsq_position(w, scale, bits).round_(), scale, bits)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> tuple:
        return gradient, None, None


def statsq(w: Tensor, bits: int, scale: Tensor | None = None) -> Tensor:
    """Statistical weight quantisation, any shape of two axes or more to the same.

    The gradient is passed on as it is, for clipped weights too. Raises ValueError for one bit, where the
    grid is broken: weights below -s would become -1.5 s.
    """
    if bits < 2:
        raise ValueError(f"StatsQ has two bits or more, not {bits}")
    return _StatsQ.apply(w, statsq_scale(w) if scale is None else scale, bits)


def by_axis(step: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """A step `[n]` in the shape in which it multiplies `x`: along ``axis``, or `[1]` for all."""
    if axis is None:
        return step
    shape = [1] * x.dim()
    shape[axis] = -1
    return step.view(shape)


def lsq_initial_step(x: Tensor, bits: int, signed: bool, axis: int | None) -> Tensor:
    """2 mean |x| / sqrt(high), `[n]` along ``axis`` or `[1]`; twice that for unsigned codes by axis.

    LSQ's rule (section 2.1); the factor 4 is that of OFQ's code.
    """
    factor = 2 if signed or axis is None else 4
    others = list(range(x.dim()))
    if axis is not None:
        others.remove(axis % x.dim())
    mean = x.detach().abs().mean(others).reshape(-1)
    return factor * mean / code_range(bits, signed)[1] ** 0.5


class _LSQ(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, step: Tensor, low: int, high: int, axis: int | None):
        wide = by_axis(step.clamp(min=SMALLEST_STEP), x, axis)
        position = x / wide
        context.save_for_backward(position)
        context.limits = low, high, axis, step.numel()
        return position.round().clamp_(low, high).mul_(wide)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple:
        (position,) = context.saved_tensors
        low, high, axis, steps = context.limits
        clamped = position.clamp(low, high)
        # As numbers: on a CPU, masks of bools take ten times as long to apply.
        inside = torch.eq(clamped, position, out=torch.empty_like(position))
        error = clamped.round_().addcmul_(position, inside, value=-1)
        others = list(range(position.dim()))
        if axis is not None:
            others.remove(axis % position.dim())
        scale = (high * position.numel() / steps) ** -0.5
        to_step = error.mul_(gradient).sum(others).reshape(-1).mul_(scale)
        return inside.mul_(gradient), to_step, None, None, None


def lsq(x: Tensor, step: Tensor, bits: int, signed: bool = True, axis: int | None = None) -> Tensor:
    """s round(clamp(x / s, low, high)) with a learned step s (LSQ, eq. 1 to 3).

    step: `[x.shape[axis]]`, or `[1]` without an axis; below 1e-5 it counts as 1e-5, and its gradient
    passes. dx = up where low <= x / s <= high, both ends included. ds = g sum up (round(v) - v) inside
    and g sum up (low or high) outside, with v = x / s and g = 1 / sqrt(high N), N numbers under a step.
    """
    return _LSQ.apply(x, step, *code_range(bits, signed), axis)


class _MaskedGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, w: Tensor, mask: Tensor) -> Tensor:
        context.save_for_backward(mask)
        return w.view_as(w)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple:
        return gradient * context.saved_tensors[0], None


def masked_gradient(w: Tensor, mask: Tensor) -> Tensor:
    """``w`` itself, whose gradient is zero where the bool mask is false."""
    return _MaskedGradient.apply(w, mask)


def near_threshold(position: Tensor, low: int, high: int, boundary: float) -> Tensor:
    """Bool: within ``boundary`` steps of a point where the code changes (OFQ, section 4.3).

    Those points are i + 1/2 for i = low … high - 1. Raises ValueError for a boundary of half a step or
    more, with which every weight between two of them is near.
    """
    if not 0 <= boundary < 0.5:
        raise ValueError(f"a boundary range lies in 0 … 0.5 (half a step), not {boundary}")
    nearest = (position.floor() + 0.5).clamp_(low + 0.5, high - 0.5)
    return (position - nearest).abs_() <= boundary

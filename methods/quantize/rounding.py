"""The equations of learned rounding, as pure functions.

Sources: AdaRound (2004.10568), BRECQ (2102.05426), AutoRound / SignRound (2309.05516), FlexRound
(2306.00317), PowerQuant (2301.09858). Weights come in groups, `[out, groups, g]`; scales and zero
points are `[out, groups]`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STRETCH = (-0.1, 1.1)
"""gamma and zeta of AdaRound: the sigmoid is stretched beyond 0 and 1 and clipped."""


def rectified_sigmoid(v: Tensor) -> Tensor:
    """h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1) (AdaRound, eq. 23)."""
    low, high = STRETCH
    return (v.sigmoid() * (high - low) + low).clamp(0, 1)


def inverse_rectified_sigmoid(h: Tensor) -> Tensor:
    """The V with h(V) = h, for h in (0, 1): where AdaRound starts, with h the remainder of w / s."""
    low, high = STRETCH
    return -torch.log((high - low) / (h - low) - 1)


def rounding_regulariser(h: Tensor, beta: float) -> Tensor:
    """Sum of 1 - |2 h - 1|^beta, which pulls every h to 0 or 1 (AdaRound, eq. 24)."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def beta_at(
    step: int, steps: int, warm_up: float = 0.2, first: float = 20.0, last: float = 2.0
) -> float | None:
    """beta of update `step`: None (no regularisation) while warming up, then linear to `last`."""
    start = warm_up * steps
    if step < start:
        return None
    share = (step - start) / (steps - start)
    return last + (first - last) * max(0.0, 1 - share)


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(_, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(_, grad: Tensor) -> Tensor:
        return grad


def ste_round(x: Tensor) -> Tensor:
    """Round to the nearest integer (half to even); the gradient passes as if nothing had happened."""
    return _Round.apply(x)


def ste_cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` with the precision of `dtype`; the gradient passes."""
    return x if dtype == x.dtype else x + (x.detach().to(dtype).to(x.dtype) - x.detach())


def soft_codes(ratio: Tensor, h: Tensor, zero: Tensor, top: int) -> Tensor:
    """clamp(floor(w / s) + h + z, 0, top) (AdaRound, eq. 22). ratio: w / s."""
    return (ratio.floor() + h + zero.unsqueeze(-1)).clamp(0, top)


def shifted_codes(ratio: Tensor, shift: Tensor, zero: Tensor, top: int) -> Tensor:
    """clamp(round(w / s + v) + z, 0, top) with a straight-through gradient (SignRound, eq. 3)."""
    return (ste_round(ratio + shift) + zero.unsqueeze(-1)).clamp(0, top)


def scaled_range(
    low: Tensor, high: Tensor, alpha: Tensor, beta: Tensor, top: int
) -> tuple[Tensor, Tensor]:
    """s = (max beta - min alpha) / top and z = round(-min alpha / s) (SignRound, eq. 4).

    low, high: least and largest weight of each group, with zero between them.
    """
    low, high = low * alpha, high * beta
    scale = (high - low).clamp(min=1e-5) / top
    return scale, ste_round(-low / scale).clamp(0, top)


def power_map(w: Tensor, exponent: Tensor | float) -> Tensor:
    """sign(w) |w|^a: the only continuous maps that keep products (PowerQuant, eq. 4)."""
    return w.sign() * w.abs().clamp(min=1e-12).pow(exponent)


def power_inverse(y: Tensor, exponent: Tensor | float) -> Tensor:
    """sign(y) |y|^(1/a)."""
    return y.sign() * y.abs().clamp(min=1e-12).pow(1 / exponent)


def power_quantize(groups: Tensor, exponent: Tensor | float, bits: int) -> Tensor:
    """The nearest point of PowerQuant's symmetric grid for every weight (eq. 5), `[out, groups, g]`.

    Codes round((2^(b-1) - 1) phi(w) / max |phi(w)|) and back; the rounding is straight-through.
    """
    top = 2 ** (bits - 1) - 1
    mapped = power_map(groups, exponent)
    scale = mapped.abs().amax(-1, keepdim=True).clamp(min=1e-12) / top
    return power_inverse(ste_round(mapped / scale) * scale, exponent)


def decay(step: int, steps: int, kind: str) -> float:
    """Factor on the learning rate: "constant", "linear" to 0, or "cosine" to 0."""
    if kind == "linear":
        return 1 - step / steps
    if kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / steps))
    return 1.0

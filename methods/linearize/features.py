"""Feature maps and the output rules of the linearisations, as pure functions.

Heads come first everywhere: `[B, H, T, d]`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hedgehog(x: Tensor, weight: Tensor) -> Tensor:
    """[softmax(x W); softmax(-x W)], the learned map of LoLCATs (2410.10254, eq. 6), float32.

    x: `[B, H, T, d]`; weight: `[H, d, f]`, one map for each head; result `[B, H, T, 2f]`.
    """
    y = x.float() @ weight.float()
    return torch.cat([y.softmax(-1), (-y).softmax(-1)], -1).clamp(min=1e-12)


def relu_map(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """ReLU(W x + b) over all heads' channels side by side, the map of SUPRA (2405.06640, sec. 3).

    x: `[B, H, T, d]`; weight: `[H d, H d]`; bias: `[H d]`.
    """
    flat = x.transpose(1, 2).flatten(2)
    y = torch.nn.functional.linear(flat, weight.to(flat), bias.to(flat)).relu()
    return y.unflatten(2, (x.shape[1], -1)).transpose(1, 2)


def head_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise every head's output to mean 0 and variance 1, without parameters (SUPRA's GroupNorm)."""
    x = x.float()
    return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=eps)


def alibi_decay(heads: int, device: torch.device | None = None) -> Tensor:
    """SUPRA's log decay of each head, minus ALiBi's slopes 2^(-8 h / H): `[1, H, 1, 1]`.

    For a number of heads that is no power of two the slopes of the next lower power are filled up with
    every other one of the next higher, as ALiBi does (2108.12409).
    """

    def slopes(n: int) -> list[float]:
        start = 2.0 ** (-8.0 / n)
        return [start ** (i + 1) for i in range(n)]

    lower = 2 ** (heads.bit_length() - 1)
    values = slopes(lower)
    if lower < heads:
        values += slopes(2 * lower)[0::2][: heads - lower]
    return -torch.tensor(values, device=device).view(1, heads, 1, 1)

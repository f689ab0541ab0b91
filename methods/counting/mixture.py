"""The hierarchical mixture of density experts as pure functions (HMoDE, section III).

Maps are [batch, 1, h, w]; gates are [batch, k, h, w], a share of each of k experts in every pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

PAIRS = ((0, 1), (0, 2), (1, 2))
"""The groups of the first level: every expert competes in two of them, so all groups share experts."""


def gate(logits: Tensor, rectified: bool = True) -> Tensor:
    """Pixel-wise shares, softmax over channels. rectified: of the logits' positive part, as published."""
    return (logits.relu() if rectified else logits).softmax(1)


def mix(maps: list[Tensor], shares: Tensor) -> Tensor:
    """Σ_k share_k · map_k in every pixel: within the hull of the maps, [batch, 1, h, w]."""
    return (torch.cat(maps, 1) * shares).sum(1, keepdim=True)


def grouped(experts: list[Tensor], logits: Tensor, rectified: bool = True) -> tuple[list, list]:
    """(groups, shares) of the first level for logits [batch, 6, h, w]: two channels for each of `PAIRS`."""
    shares = [gate(pair, rectified) for pair in logits.split(2, 1)]
    groups = [
        mix([experts[i], experts[j]], share) for (i, j), share in zip(PAIRS, shares, strict=True)
    ]
    return groups, shares


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The map with every value repeated: a density for each pixel of the image, so nothing is divided by area."""
    return functional.interpolate(x, size=size, mode="nearest")

"""HMoDE: three density experts at three scales, mixed in two levels by pixel-wise gates.

Du, Shi, Deng, Zafeiriou, "Redesigning Multi-Scale Neural Network for Crowd Counting", IEEE TIP 2023 (arXiv
2208.02894).

*Fidelity.* Layers, their order and their widths are those of the published code (ZPDu 693c104): at width 64 with a
second gate of 2048 channels there are 82.62 million parameters, 48.37 million of them in that gate. Gates rectify their
logits before the softmax, as published (`rectified`); experts are upsampled by repetition and not divided by area, so
each predicts a density for a pixel of the image. The paper's last layer of an expert is ReLU; ``positive: softplus``
has a gradient everywhere, for small networks whose experts would otherwise predict nothing for good.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, softplus

from methods.counting import backbones
from methods.counting.losses import Output
from methods.counting.mixture import gate, grouped, mix, nearest

Mixture = Literal["hierarchical", "flat", "mean", "single"]
Positive = Literal["relu", "softplus"]
START = -4.0
"""Where a softplus expert begins: about 0.02 of a scaled density."""


def convolutions(*channels: int) -> nn.Sequential:
    """3x3 convolutions with ReLU, from the first number of channels to the last."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Expert(nn.Module):
    """A density from features: 1x1 to `hidden` channels, 1x1 to one, made positive."""

    def __init__(self, inputs: int, hidden: int, positive: Positive):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(inputs, hidden, 1), nn.Conv2d(hidden, 1, 1)
        self.positive = positive

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] to [b, 1, h, w]."""
        y = self.outer(self.inner(x).relu())
        return softplus(y + START) if self.positive == "softplus" else y.relu()


class HMoDE(nn.Module):
    """[b, 3, h, w] to :class:`Output` with maps of the image's size.

    width: channels of VGG16's first stage, 64 as published; everything but the second gate follows it.
    second_gate: its widest layer. mixture: `hierarchical`, or the ablations `flat` (one gate over the three experts, in
    the place and of the size of the second), `mean` (no gates) and `single` (the finest expert alone).
    """

    def __init__(
        self,
        width: int = 64,
        second_gate: int = 2048,
        mixture: Mixture = "hierarchical",
        backbone: str = "vgg16",
        frozen: bool = False,
        rectified: bool = True,
        positive: Positive = "relu",
    ):
        super().__init__()
        self.mixture, self.rectified = mixture, rectified
        self.backbone = backbones.build(backbone, width, frozen)
        quarter, eighth, sixteenth = self.backbone.channels
        wide = 8 * width
        self.decode3 = convolutions(sixteenth, 2 * wide, wide)
        self.decode2 = convolutions(eighth + wide, wide, wide // 2)
        self.decode1 = convolutions(quarter + wide // 2, wide // 2, wide // 4)
        inputs = (wide // 4,) if mixture == "single" else (wide // 4, wide // 2, wide)
        self.experts = nn.ModuleList(Expert(channels, width, positive) for channels in inputs)
        if mixture in ("hierarchical", "flat"):
            self.attend = nn.Sequential(
                *convolutions(sixteenth, wide // 2, wide // 4), nn.Conv2d(wide // 4, 1, 1)
            )
            g = second_gate
            self.gate2 = nn.Sequential(
                *convolutions(sixteenth, g // 2, g, g // 2, g // 4, g // 8),
                nn.Conv2d(g // 8, 3, 1),
            )
        if mixture == "hierarchical":
            self.gate1 = nn.Sequential(
                *convolutions(sixteenth, wide // 2), nn.Conv2d(wide // 2, 6, 1)
            )

    def forward(self, x: Tensor) -> Output:
        """The experts' maps, the groups', the mixture's; see :class:`Output`."""
        x3, x4, x5 = self.backbone(x)
        d3 = self.decode3(x5)
        d2 = self.decode2(torch.cat([x4, _to(d3, x4)], 1))
        d1 = self.decode1(torch.cat([x3, _to(d2, x3)], 1))
        fine, size = d1.shape[2:], x.shape[2:]
        features = (d1, d2, d3)[: len(self.experts)]
        experts = [
            nearest(expert(feature), fine)
            for expert, feature in zip(self.experts, features, strict=True)
        ]
        if self.mixture == "single":
            return Output([nearest(experts[0], size)], [0])
        if self.mixture == "mean":
            maps = [*experts, sum(experts) / len(experts)]
            return Output([nearest(m, size) for m in maps], [0, 0, 0, 2])
        attention = self.attend(x5).sigmoid()
        second = nearest(gate(self.gate2(attention * x5), self.rectified), fine)
        seen = nearest(attention, size)
        if self.mixture == "flat":
            maps = [*experts, mix(experts, second)]
            return Output([nearest(m, size) for m in maps], [0, 0, 0, 2], [second], seen)
        groups, first = grouped(experts, nearest(self.gate1(x5), fine), self.rectified)
        maps = [*experts, *groups, mix(groups, second)]
        return Output([nearest(m, size) for m in maps], [0, 0, 0, 1, 1, 1, 2], first, seen)


def _to(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)

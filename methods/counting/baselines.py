"""Two networks that HMoDE is compared with, at any width; both predict a density for a pixel of the image.

*Fidelity.* MCNN (Zhang et al., CVPR 2016): three columns with large, middle and small filters, pooled twice, fused by a
1x1 convolution; no pretraining of single columns, as in later reimplementations. CSRNet (Li, Zhang, Chen, CVPR 2018):
the first ten convolutions of VGG16 (here with batch normalisation, as in every network of this family, so that they
differ in what the papers differ in) and six dilated ones. Both published codes compare maps at an eighth or a quarter
of the image; here the prediction is repeated to full size, which weighs pixels the same way. `normalised` puts batch
normalisation into the columns and the dilated layers, without which they hardly learn in a few hundred updates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from methods.counting.backbones import VGG16
from methods.counting.hmode import START, Positive
from methods.counting.losses import Output
from methods.counting.mixture import nearest

COLUMNS = ((9, 7, (16, 32, 16, 8)), (7, 5, (20, 40, 20, 10)), (5, 3, (24, 48, 24, 12)))
"""(first kernel, other kernels, channels) of MCNN's columns at its published width of 16."""
DILATED = (8, 8, 8, 4, 2, 1)
"""Channels / width of CSRNet's dilated layers."""


def density(y: Tensor, positive: Positive) -> Tensor:
    """A positive map: ReLU, or softplus from a small density on."""
    return softplus(y + START) if positive == "softplus" else y.relu()


class MCNN(nn.Module):
    """[b, 3, h, w] to :class:`Output`; `width`: channels of the first column's first layer."""

    def __init__(self, width: int = 16, positive: Positive = "relu", normalised: bool = False):
        super().__init__()
        self.positive, self.columns, outputs = positive, nn.ModuleList(), 0
        for first, other, published in COLUMNS:
            a, b, c, d = (max(1, round(n * width / 16)) for n in published)
            self.columns.append(
                nn.Sequential(
                    *_filtered(3, a, first, 1, normalised),
                    nn.MaxPool2d(2),
                    *_filtered(a, b, other, 1, normalised),
                    nn.MaxPool2d(2),
                    *_filtered(b, c, other, 1, normalised),
                    *_filtered(c, d, other, 1, normalised),
                )
            )
            outputs += d
        self.fuse = nn.Conv2d(outputs, 1, 1)

    def forward(self, x: Tensor) -> Output:
        """One map, at a quarter of the size and repeated."""
        y = self.fuse(torch.cat([column(x) for column in self.columns], 1))
        return Output([nearest(density(y, self.positive), x.shape[2:])], [0])


def _filtered(
    inputs: int, outputs: int, kernel: int, dilation: int, normalised: bool
) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation)
    between = [nn.BatchNorm2d(outputs)] if normalised else []
    return [layer, *between, nn.ReLU(inplace=True)]


class CSRNet(nn.Module):
    """[b, 3, h, w] to :class:`Output`; `width`: channels of the first layer, 64 as published."""

    def __init__(self, width: int = 64, positive: Positive = "relu", normalised: bool = False):
        super().__init__()
        self.positive = positive
        whole = VGG16(width)
        self.features = whole.features[: whole.ends[3]]
        layers: list[nn.Module] = []
        inputs = 8 * width
        for factor in DILATED:
            outputs = factor * width
            layers += _filtered(inputs, outputs, 3, 2, normalised)
            inputs = outputs
        self.dilated = nn.Sequential(*layers)
        self.output = nn.Conv2d(inputs, 1, 1)

    def forward(self, x: Tensor) -> Output:
        """One map, at an eighth of the size and repeated."""
        y = self.output(self.dilated(self.features(x)))
        return Output([nearest(density(y, self.positive), x.shape[2:])], [0])

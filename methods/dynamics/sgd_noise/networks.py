"""Networks in NTK parametrisation: weights of deviation one, divided by the root of the fan-in where they are used."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.dynamics.sgd_noise.params import ConvSizes, DenseSizes

REFUSED = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


class NTKLinear(nn.Module):
    """W x / sqrt(fan-in), without a bias."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.scale = 1 / math.sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return nn.functional.linear(x, self.weight) * self.scale


class NTKConv(nn.Module):
    """A 3x3 convolution of stride 2, divided by the root of the fan-in."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.scale = 1 / math.sqrt(9 * inputs)

    def forward(self, x: Tensor) -> Tensor:
        """[b, inputs, h, w] -> [b, outputs, h/2, w/2]."""
        return nn.functional.conv2d(x, self.weight, stride=2, padding=1) * self.scale


class Rectifier(nn.Module):
    """sqrt(2) max(0, x), which keeps the second moment."""

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return x.relu() * math.sqrt(2)


class Mean(nn.Module):
    """The mean over places."""

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] -> [b, c]."""
        return x.mean((-1, -2))


def build(sizes: DenseSizes | ConvSizes, shape: tuple[int, ...]) -> nn.Module:
    """A network from images [b, c, h, w] to one number each, [b, 1]."""
    channels, *places = shape
    if sizes.kind == "conv":
        widths = [channels] + [sizes.width] * sizes.depth
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [NTKConv(inputs, outputs), Rectifier()]
        return nn.Sequential(*layers, Mean(), NTKLinear(sizes.width, 1))
    widths = [channels * math.prod(places)] + [sizes.width] * sizes.depth
    layers = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [NTKLinear(inputs, outputs), Rectifier()]
    return nn.Sequential(*layers, NTKLinear(widths[-1], 1))


def check_module(module: nn.Module) -> None:
    """Refuse what f(w, x) - f(w0, x) is not zero for at w0, or what couples the images of a batch."""
    for name, child in module.named_modules():
        if isinstance(child, REFUSED):
            why = (
                "its output depends on the batch"
                if "Norm" in type(child).__name__
                else "its output is random"
            )
            raise RetrofitError(
                f"{name} is a {type(child).__name__}: {why}, so f(w, x) - f(w0, x) would not vanish at w0"
            )

"""Residual networks of four stages: ResNet-18 and -34 (arXiv 1512.03385, table 1), for small and large images.

``stem: small`` is the form that papers train on CIFAR: a 3x3 convolution and no pooling at the
entrance. Blocks and shortcuts are those of :mod:`methods.models.networks.residual`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from methods.models.networks.residual import (
    Block,
    PooledLinear,
    Staged,
    convolution,
    draw_filters,
)


class ResNet(Staged):
    """[n, channels, h, w] to logits [n, classes].

    width: channels of the first stage; each later stage has twice as many. blocks: in each stage.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2, 2),
        stem: Literal["small", "large"] = "small",
    ):
        kernel, stride = (3, 1) if stem == "small" else (7, 2)
        first = [convolution(channels, width, kernel, stride), nn.BatchNorm2d(width), nn.ReLU()]
        if stem == "large":
            first.append(nn.MaxPool2d(3, 2, 1))
        super().__init__(
            nn.Sequential(*first),
            width,
            width,
            blocks,
            Block,
            lambda inputs: PooledLinear(inputs, classes),
        )
        draw_filters(self)

"""Residual networks of four stages: ResNet-18 and -34 (arXiv 1512.03385, table 1), for small and large images.

``stem: small`` is the form that papers train on CIFAR: a 3x3 convolution and no pooling at the
entrance. Blocks and shortcuts are those of :mod:`methods.models.networks.residual`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from methods.models.networks.residual import Block, PooledLinear, convolution


class ResNet(nn.Module):
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
        super().__init__()
        if stem == "small":
            first: list[nn.Module] = [convolution(channels, width, 3)]
        else:
            first = [convolution(channels, width, 7, 2)]
        first += [nn.BatchNorm2d(width), nn.ReLU()]
        if stem == "large":
            first.append(nn.MaxPool2d(3, 2, 1))
        self.stem = nn.Sequential(*first)
        stages, inputs = [], width
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for block in range(count):
                stages.append(Block(inputs, outputs, 2 if stage and block == 0 else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = PooledLinear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] to [n, classes]."""
        return self.head(self.stages(self.stem(x)))

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """[(name, module)] whose composition is the forward pass."""
        inner = [(f"stages.{i}", block) for i, block in enumerate(self.stages)]
        return [("stem", self.stem), *inner, ("head", self.head)]

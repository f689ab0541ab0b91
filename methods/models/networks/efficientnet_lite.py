"""EfficientNet-Lite0: EfficientNet-B0 (Tan and Le, 1905.11946) without squeeze-and-excitation.

A stem of 32 channels, sixteen inverted bottlenecks in seven stages, a head of 1280 channels.

*Fidelity.* As published by the authors of the network: ReLU6 everywhere, batch normalisation with
eps 1e-3, padding as TensorFlow's "same" (where stride 2 needs an odd number of extra rows and
columns, the odd one is at the bottom and right; padding evenly loses the published weights' fit).
With the weights of `configs/models/efficientnet-lite0.yaml` the logits are those of the PyTorch
package that they were made for, bit for bit on images of 224 pixels. That package pads images of
every size as if they had 224; here the padding follows the image. Left out, because they act in
training only: stochastic depth and dropout before the classifier.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import pad

STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""(expansion, kernel, stride, channels, repetitions) of each stage."""


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose output is ceil(size / stride)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, outputs, ceil(h / s), ceil(w / s)]."""
        edges = []
        for size, kernel, stride in zip(
            reversed(x.shape[2:]), reversed(self.kernel_size), reversed(self.stride), strict=True
        ):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            edges += [missing // 2, missing - missing // 2]
        return super().forward(pad(x, edges))


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU6."""
    return nn.Sequential(
        SameConv2d(inputs, outputs, kernel, stride, groups),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
        nn.ReLU6(),
    )


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = inputs * expansion
        self.expand = unit(inputs, inner, 1) if expansion > 1 else nn.Identity()
        self.filter = unit(inner, inner, kernel, stride, groups=inner)
        self.project = unit(inner, outputs, 1)[:2]
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, outputs, h / s, w / s]."""
        y = self.project(self.filter(self.expand(x)))
        return y + x if self.shortcut else y


class Head(nn.Module):
    """1280 channels, their mean, logits: [n, c, h, w] to [n, classes]."""

    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.features = unit(inputs, 1280, 1)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, classes]."""
        return self.classifier(self.features(x).mean((2, 3)))


class EfficientNetLite(nn.Module):
    """[n, channels, h, w] to logits [n, classes]."""

    def __init__(self, channels: int = 3, classes: int = 1000):
        super().__init__()
        self.stem = unit(channels, 32, 3, 2)
        layers, inputs = [], 32
        for expansion, kernel, stride, outputs, repetitions in STAGES:
            for i in range(repetitions):
                step = stride if i == 0 else 1
                layers.append(InvertedBottleneck(inputs, outputs, expansion, kernel, step))
                inputs = outputs
        self.layers = nn.ModuleList(layers)
        self.head = Head(inputs, classes)

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """[(name, module)] whose composition is the forward pass."""
        inner = [(f"layers.{i}", block) for i, block in enumerate(self.layers)]
        return [("stem", self.stem), *inner, ("head", self.head)]

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] to [n, classes]."""
        for _, block in self.blocks():
            x = block(x)
        return x


PUBLISHED = {
    "_conv_stem.": "stem.0.",
    "_bn0.": "stem.1.",
    "._expand_conv.": ".expand.0.",
    "._bn0.": ".expand.1.",
    "._depthwise_conv.": ".filter.0.",
    "._bn1.": ".filter.1.",
    "._project_conv.": ".project.0.",
    "._bn2.": ".project.1.",
    "_blocks.": "layers.",
    "_conv_head.": "head.features.0.",
    "_bn1.": "head.features.1.",
    "_fc.": "head.classifier.",
}
"""Parts of names in the published PyTorch weights to parts of names here, tried in this order."""


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict under our names."""
    found = {}
    for name, tensor in state.items():
        for theirs, ours in PUBLISHED.items():
            inside = theirs.startswith(".")
            if (inside and theirs in name) or (not inside and name.startswith(theirs)):
                name = name.replace(theirs, ours, 1)
        found[name] = tensor
    return found

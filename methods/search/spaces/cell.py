"""The toy cell space of TangleNAS: which of four convolutions stands on each edge of a cell.

Three cells in a row, normal, reduction, normal; the two normal ones are alike. A cell has an input and
two nodes; node 1 reads the input, node 2 the input and node 1, so there are three edges in each kind
of cell and 4^6 = 4096 architectures. Options are separable convolutions with kernels 3 and 5 and
dilated ones likewise; each pair shares its weights, the smaller kernel being the larger one's centre.

*Fidelity.* Edges, options and kinds of cells as in the paper. The paper's networks have 32 channels
on 28 x 28 images; how a cell's nodes are joined (concatenated, then a 1x1 convolution) is chosen.
Normalisation inside an operation has no scale and shift during search, as published.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.search.choices import Choice, Part
from methods.search.layers import EntangledConv2d
from methods.search.mixing import EntangledOps
from methods.search.mixture import Mixture

OPTIONS = ("sep3", "sep5", "dil3", "dil5")
KERNELS = {"sep": {"sep3": 3, "sep5": 5}, "dil": {"dil3": 3, "dil5": 5}}


class Separable(nn.Module):
    """ReLU, depthwise, pointwise, normalisation; ``repeats`` times. [n, c, h, w] to [n, c, h/s, w/s]."""

    def __init__(
        self, channels: int, kernel: int, stride: int, dilation: int = 1, repeats: int = 1
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for repeat in range(repeats):
            step, padding = stride if repeat == 0 else 1, dilation * (kernel // 2)
            layers += [
                nn.ReLU(),
                nn.Conv2d(
                    channels, channels, kernel, step, padding, dilation, channels, bias=False
                ),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels, affine=False),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, c, h/s, w/s]."""
        return self.layers(x)

    def entangle(self, kernel: Part, mixture: Mixture) -> Separable:
        """The same with a choice of kernels."""
        for number, layer in enumerate(self.layers):
            if isinstance(layer, nn.Conv2d) and layer.groups > 1:
                self.layers[number] = EntangledConv2d(layer, mixture, kernel=kernel)
        return self


def operation(option: str, channels: int, stride: int) -> Separable:
    """One option on its own: separable ones have two rounds, dilated ones one."""
    kernel = int(option[-1])
    if option.startswith("sep"):
        return Separable(channels, kernel, stride, repeats=2)
    return Separable(channels, kernel, stride, dilation=2)


def edge(
    choice: Choice, channels: int, stride: int, mixture: Mixture, entangled: bool = True
) -> EntangledOps:
    """The four options, in two groups that share weights, or in four that do not."""
    if not entangled:
        groups = {option: operation(option, channels, stride) for option in choice.options}
        parts = {option: Part.of(choice, {option: int(option[-1])}) for option in choice.options}
        return EntangledOps(choice, groups, parts, mixture)
    groups, parts = {}, {}
    for name, sizes in KERNELS.items():
        known = {option: size for option, size in sizes.items() if option in choice.options}
        if known:
            parts[name] = Part.of(choice, known)
            largest = max(known, key=known.__getitem__)
            groups[name] = operation(largest, channels, stride).entangle(parts[name], mixture)
    return EntangledOps(choice, groups, parts, mixture)


class Cell(nn.Module):
    """[n, c, h, w] to [n, c, h/s, w/s] through two nodes, s = 2 in a reduction cell."""

    def __init__(self, edges: list[EntangledOps], channels: int):
        super().__init__()
        self.first, self.second, self.third = edges
        self.join = nn.Sequential(
            nn.ReLU(), nn.Conv2d(2 * channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, c, h/s, w/s]."""
        one = self.first(x)
        two = self.second(x) + self.third(one)
        return self.join(torch.cat([one, two], 1))


class CellNetwork(nn.Module):
    """[n, image channels, h, w] to logits [n, classes]. shrink: mean over so many pixels first."""

    def __init__(
        self,
        image_channels: int,
        classes: int,
        channels: int = 32,
        shrink: int = 1,
        entangled: bool = True,
    ):
        super().__init__()
        mixture = Mixture()
        kinds = {
            kind: [Choice(f"{kind}.{number}", OPTIONS) for number in (1, 2, 3)]
            for kind in ("normal", "reduce")
        }
        self.stem = nn.Sequential(
            nn.AvgPool2d(shrink) if shrink > 1 else nn.Identity(),
            nn.Conv2d(image_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        cells = []
        for kind in ("normal", "reduce", "normal"):
            strides = (2, 2, 1) if kind == "reduce" else (1, 1, 1)
            edges = [
                edge(choice, channels, stride, mixture, entangled)
                for choice, stride in zip(kinds[kind], strides, strict=True)
            ]
            cells.append(Cell(edges, channels))
        self.cells = nn.Sequential(*cells)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, classes]."""
        return self.head(self.cells(self.stem(x)).mean((2, 3)))

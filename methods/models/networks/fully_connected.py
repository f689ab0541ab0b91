"""Fully connected networks for small images, such as F1 of arXiv 1705.08741 (784-512x5-10)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class Flattened(nn.Sequential):
    """Layers that take all numbers of a sample in a row."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, ...] to what the last layer gives."""
        return super().forward(x.flatten(1))


class FullyConnected(nn.Module):
    """``depth`` hidden layers of ``width``: linear, batch normalisation, ReLU; then a linear head.

    [n, c, h, w] or [n, inputs] to logits [n, classes]. The linear layers keep their biases, as
    published, although the normalisation removes what they add.
    """

    def __init__(self, inputs: int, classes: int, width: int = 512, depth: int = 5):
        super().__init__()
        sizes = [inputs, *[width] * depth]
        layers: list[nn.Module] = []
        for size, next_size in pairwise(sizes):
            layers += [nn.Linear(size, next_size), nn.BatchNorm1d(next_size), nn.ReLU()]
        self.features = Flattened(*layers)
        self.head = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] or [n, inputs] to [n, classes]."""
        return self.head(self.features(x))

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """[(name, module)] whose composition is the forward pass."""
        return [("features", self.features), ("head", self.head)]

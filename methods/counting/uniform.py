"""A control for every counting network: the mean density of the training images in every pixel of any image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.counting.losses import Output

if TYPE_CHECKING:
    from methods.counting.maps import Maps
    from methods.counting.network import Counter
    from methods.counting.params import UniformDensity
    from methods.run.context import Context


class Uniform(nn.Module):
    """[b, 3, h, w] to an :class:`Output` whose map is the same number everywhere."""

    def __init__(self):
        super().__init__()
        self.density = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x: Tensor) -> Output:
        """One map of the image's size."""
        return Output([self.density.expand(len(x), 1, *x.shape[2:])], [0])


def apply(
    base: Maps, data: dict[str, list[Any]], params: UniformDensity, context: Context
) -> Counter:
    """The control, from the maps of the training images."""
    from methods.counting.network import Counter

    maps = base.maps["train"]
    module = Uniform()
    module.density.fill_(sum(float(m.sum()) for m in maps) / sum(m.size for m in maps))
    return Counter(module.eval(), "uniform", {}, [0.0] * 3, [1.0] * 3, 1.0)

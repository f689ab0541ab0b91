"""The convolution macro space of TangleNAS: channels and kernels of four convolutions in a row.

With three options for each width and kernel there are 3^8 = 6561 architectures.

*Fidelity.* As in the paper, every width and every kernel is a decision of its own, and a convolution's
weight is superposed over inputs, outputs and kernel at once. Chosen here: batch normalisation after each
convolution (the paper's smallest networks diverge without, at 10 % accuracy), a stride of 2 in the
second and the last, and the mean over the image before the linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from methods.search.choices import Choice
from methods.study.errors import RetrofitError

STRIDES = (1, 2, 1, 2)


class ConvNetwork(nn.Module):
    """[n, image channels, h, w] to logits [n, classes]. shrink: mean over so many pixels first."""

    def __init__(
        self,
        image_channels: int,
        classes: int,
        widths: Sequence[int],
        kernels: Sequence[int],
        shrink: int = 1,
    ):
        super().__init__()
        self.shrink = nn.AvgPool2d(shrink) if shrink > 1 else nn.Identity()
        blocks, inputs = [], image_channels
        for width, kernel, stride in zip(widths, kernels, STRIDES, strict=True):
            conv = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False)
            blocks.append(nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU()))
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, classes]."""
        return self.head(self.blocks(self.shrink(x)).mean((2, 3)))


def largest(
    image_channels: int,
    classes: int,
    widths: Sequence[Sequence[int]],
    kernels: Sequence[int],
    shrink: int = 1,
) -> tuple[ConvNetwork, dict[str, dict[str, Choice]]]:
    """The largest network and its plan. widths: options of each of the four layers."""
    if len(widths) != len(STRIDES):
        raise RetrofitError(
            f"widths: options for each of {len(STRIDES)} layers, found {len(widths)}"
        )
    network = ConvNetwork(
        image_channels, classes, [max(w) for w in widths], [max(kernels)] * len(widths), shrink
    )
    plan: dict[str, dict[str, Choice]] = {}
    before: dict[str, Choice] = {}
    for number, options in enumerate(widths):
        width = Choice(f"width.{number + 1}", tuple(options))
        kernel = Choice(f"kernel.{number + 1}", tuple(kernels))
        plan[f"blocks.{number}.0"] = {"out": width, "kernel": kernel, **before}
        plan[f"blocks.{number}.1"] = {"width": width}
        before = {"in": width}
    plan["head"] = before
    return network, plan

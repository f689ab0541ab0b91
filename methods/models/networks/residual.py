"""Small residual networks: He et al., "Deep residual learning", 2015 (arXiv 1512.03385), section 4.2.

Three stages with 1, 2 and 4 times ``width`` channels, each stage after the first halving the
image. ``blocks=7, width=16`` is ResNet-44. Where the shape changes, the shortcut is a 1x1
convolution with normalisation (option B; the code published with arXiv 1705.08741 does the same).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut: [n, inputs, h, w] to [n, outputs, h/s, w/s]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs, 3)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, outputs, h/stride, w/stride]."""
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x), inplace=True)


class PooledLinear(nn.Linear):
    """The mean over the image and a linear layer: [n, c, h, w] to [n, classes]."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, classes]."""
        return super().forward(x.mean((2, 3)))


class Staged(nn.Module):
    """A stem, stages of blocks, and a head: [n, channels, h, w] to logits [n, classes]."""

    def __init__(
        self,
        stem: nn.Module,
        inputs: int,
        width: int,
        blocks: Sequence[int],
        block: Callable[[int, int, int], nn.Module],
        head: Callable[[int], nn.Module],
    ):
        """blocks: in each stage, of which the first has ``width`` channels and each later one twice as
        many at half the image's side. inputs: channels that the stem gives.
        """
        super().__init__()
        self.stem = stem
        stages = []
        for stage, count in enumerate(blocks):
            outputs = width * 2**stage
            for number in range(count):
                stages.append(block(inputs, outputs, 2 if stage and number == 0 else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.head = head(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] to [n, classes]."""
        return self.head(self.stages(self.stem(x)))

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """[(name, module)] whose composition is the forward pass."""
        inner = [(f"stages.{i}", block) for i, block in enumerate(self.stages)]
        return [("stem", self.stem), *inner, ("head", self.head)]


def draw_filters(network: nn.Module) -> None:
    """He's initialisation of convolutions, by the outputs."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Residual(Staged):
    """A stem, three stages of ``blocks`` blocks, the mean over the image, and a linear head.

    width: channels of the first stage. stem_stride: 2 halves the image at once, which quarters
    the cost. [n, channels, h, w] to logits [n, classes].
    """

    def __init__(
        self, channels: int, classes: int, width: int = 16, blocks: int = 7, stem_stride: int = 1
    ):
        stem = nn.Sequential(
            convolution(channels, width, 3, stem_stride), nn.BatchNorm2d(width), nn.ReLU()
        )
        super().__init__(
            stem, width, width, [blocks] * 3, Block, lambda inputs: PooledLinear(inputs, classes)
        )
        draw_filters(self)

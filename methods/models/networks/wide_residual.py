"""Wide residual networks: Zagoruyko and Komodakis, 2016 (arXiv 1605.07146), in pre-activation order.

A stem, three stages with 1, 2 and 4 times ``width`` channels, each after the first halving the image,
a last normalisation, and a linear layer on the mean over the image. WRN-28-10 has ``width=160,
blocks=4`` (depth 6 * blocks + 4) and WRN-10-1 ``width=16, blocks=1``.

*Fidelity.* From the paper: normalisation and ReLU before each convolution, no biases in convolutions,
a 1x1 convolution as the shortcut where the number of channels or the size of the image changes, fed
with what the first normalisation gave. Chosen: weights from a normal of variance 2 / fan-in.
``inner_norm=False`` leaves out the second normalisation of a block, as the code published with
arXiv 2311.04251 does.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

from methods.models.networks.residual import Staged, convolution


class WideBlock(nn.Module):
    """Two 3x3 convolutions behind norms, and a shortcut: [n, inputs, h, w] to [n, outputs, h/s, w/s]."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, inner_norm: bool = True):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.norm2 = nn.BatchNorm2d(outputs) if inner_norm else nn.Identity()
        self.conv2 = convolution(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[n, inputs, h, w] to [n, outputs, h/stride, w/stride]."""
        y = relu(self.norm1(x))
        passed = x if self.shortcut is None else self.shortcut(y)
        return passed + self.conv2(relu(self.norm2(self.conv1(y))))


class Head(nn.Module):
    """Normalisation, ReLU, the mean over the image and a linear layer: [n, c, h, w] to [n, classes]."""

    def __init__(self, inputs: int, classes: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, classes]."""
        return self.classifier(relu(self.norm(x)).mean((2, 3)))


class WideResidual(Staged):
    """[n, channels, h, w] to logits [n, classes].

    width: channels of the first stage. blocks: in each stage. stem: channels of the first layer.
    stem_stride: 2 halves the image at once, which quarters the cost.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 160,
        blocks: int = 4,
        stem: int = 16,
        stem_stride: int = 1,
        inner_norm: bool = True,
    ):
        super().__init__(
            convolution(channels, stem, 3, stem_stride),
            stem,
            width,
            [blocks] * 3,
            lambda inputs, outputs, stride: WideBlock(inputs, outputs, stride, inner_norm),
            lambda inputs: Head(inputs, classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

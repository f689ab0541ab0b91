"""What the counting networks see with: features at a quarter, an eighth and a sixteenth of the image."""

from __future__ import annotations

from torch import Tensor, nn

from methods.models.networks.efficientnet_lite import EfficientNetLite

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""(channels / width, convolutions) of VGG16."""
STRIDE = 16


class VGG16(nn.Module):
    """The convolutions of VGG16 with batch normalisation; at width 64 its tensors are named as torchvision's.

    The last pooling is left out. [b, 3, h, w] to three features of 4, 8 and 8 times `width` channels.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        layers: list[nn.Module] = []
        inputs, self.ends = 3, []
        for number, (factor, repetitions) in enumerate(STAGES):
            if number:
                layers.append(nn.MaxPool2d(2))
            for _ in range(repetitions):
                outputs = factor * width
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
                layers.append(nn.ReLU(inplace=True))
                inputs = outputs
            self.ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.channels = tuple(factor * width for factor, _ in STAGES[2:])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at 1/4, 1/8 and 1/16."""
        found = []
        for number, layer in enumerate(self.features, start=1):
            x = layer(x)
            if number in self.ends[2:]:
                found.append(x)
        return found


class EfficientNetLiteFeatures(nn.Module):
    """EfficientNet-Lite0 up to its fifth stage; `frozen`: neither weights nor statistics move in training."""

    ENDS = (2, 4, 10)
    """The last bottleneck at 1/4, 1/8 and 1/16."""

    def __init__(self, frozen: bool = True):
        super().__init__()
        whole = EfficientNetLite(3, 1)
        self.stem, self.layers = whole.stem, whole.layers[: self.ENDS[-1] + 1]
        self.channels = tuple(self.layers[end].project[0].out_channels for end in self.ENDS)
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetLiteFeatures:
        """Frozen features stay in evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features at 1/4, 1/8 and 1/16 with 24, 40 and 112 channels."""
        x = self.stem(x)
        found = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.ENDS:
                found.append(x)
        return found


def build(kind: str, width: int, frozen: bool) -> nn.Module:
    """The backbone that a configuration names."""
    return VGG16(width) if kind == "vgg16" else EfficientNetLiteFeatures(frozen)

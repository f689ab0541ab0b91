"""What a counting network starts from: random weights, VGG16's published ones, or a base network's."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.counting.backbones import EfficientNetLiteFeatures
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.counting.params import PublishedWeights
    from methods.models.networks.network import Network

DEVIATION = 0.01
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
"""Mean and deviation of the channels that torchvision's weights were trained with."""
BACKBONE = ("backbone.", "features.")


def initialise(module: nn.Module, how: str, seed: int) -> None:
    """Draw all convolutions anew, in place; the same seed gives the same weights.

    The backbone's are He et al.'s. The others are normal with deviation 0.01 as published, or (``he``) He et al.'s but
    for the last layers (one density, the gates' logits), which stay at 0.01, so that training starts at small densities
    and equal shares. Biases are 0.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Conv2d) or layer.bias is None:
            continue
        last = layer.out_channels in (1, 3, 6) and layer.kernel_size == (1, 1)
        if name.startswith(BACKBONE) or (how == "he" and not last):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        else:
            nn.init.normal_(layer.weight, 0.0, DEVIATION, generator=generator)
        nn.init.zeros_(layer.bias)


def take_backbone(module: nn.Module, base: Network | None) -> None:
    """Give an EfficientNet-Lite backbone the base network's weights, in place; RetrofitError without one."""
    backbone = getattr(module, "backbone", None)
    if not isinstance(backbone, EfficientNetLiteFeatures):
        return
    if base is None or base.architecture != "efficientnet_lite":
        raise RetrofitError(
            "backbone efficientnet_lite needs density_maps_beside_base before it, and an efficientnet_lite as base"
        )
    own = backbone.state_dict()
    backbone.load_state_dict({k: v for k, v in base.module.state_dict().items() if k in own})


def take_published(module: nn.Module, weights: PublishedWeights) -> None:
    """Load torchvision's vgg16_bn into VGG16's layers, in place.

    Raises RetrofitError: no such file, another checksum, something else than these tensors.
    """
    path = file_of(weights)
    state = {
        name.removeprefix("features."): tensor
        for name, tensor in _read(path).items()
        if name.startswith("features.")
    }
    features = module.backbone.features if hasattr(module, "backbone") else module.features
    own = features.state_dict()
    try:
        # CSRNet uses the first ten convolutions of thirteen.
        features.load_state_dict({k: v for k, v in state.items() if k in own})
    except RuntimeError as error:
        raise RetrofitError(f"{path} does not fit a VGG16 with batch norm: {error}") from None


def file_of(weights: PublishedWeights) -> Path:
    """The file, with the declared beginning of its SHA-256; RetrofitError otherwise."""
    first = weights.file.split("/")[0]
    if first.startswith("$") and first[1:] not in os.environ:
        raise RetrofitError(
            f"weights.file is {weights.file}, and the environment variable {first[1:]} is not set"
        )
    path = Path(os.path.expandvars(weights.file)).expanduser()
    if not path.is_file():
        raise RetrofitError(f"weights.file: there is no file {path}")
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if not found.startswith(weights.sha256):
        raise RetrofitError(f"{path} has the sha256 {found}, expected {weights.sha256}…")
    return path


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (
        OSError,
        pickle.UnpicklingError,
        RuntimeError,
        SafetensorError,
        TypeError,
        ValueError,
    ) as error:
        raise RetrofitError(f"{path} holds no tensors that can be read: {error}") from None

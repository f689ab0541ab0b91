"""A vision network as a payload: `config.json`, `model.safetensors`, and a loader."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods.export import compressed_tensors
from methods.export.packed import PackedWeight
from methods.fit.batches import as_batch_first, moments, standardise
from methods.models.networks.efficientnet_lite import EfficientNetLite
from methods.models.networks.fully_connected import FullyConnected
from methods.models.networks.residual import Residual
from methods.models.networks.resnet import ResNet
from methods.models.networks.vit import VisionTransformer
from methods.models.networks.wide_residual import WideResidual
from methods.study.errors import RetrofitError, choices

if TYPE_CHECKING:
    from methods.data.kinds import Images
    from methods.run.metrics import Metric

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "fully_connected": FullyConnected,
    "residual": Residual,
    "resnet": ResNet,
    "wide_residual": WideResidual,
    "vit": VisionTransformer,
    "efficientnet_lite": EfficientNetLite,
}
CONFIG, WEIGHTS = "config.json", "model.safetensors"
FIELDS = ("architecture", "arguments", "mean", "std", "classes", "notes")
"""Of a `Network`, as its configuration has them."""


def build(architecture: str, arguments: dict[str, Any], seed: int) -> nn.Module:
    """A freshly initialised module; the same seed gives the same weights.

    Raises RetrofitError for an unknown architecture and for sizes that do not go together.
    """
    if architecture not in ARCHITECTURES:
        raise RetrofitError(
            f"there is no network '{architecture}'; {choices(architecture, ARCHITECTURES)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return ARCHITECTURES[architecture](**arguments)
        except ValueError as error:
            raise RetrofitError(f"network {architecture}: {error}") from None


def arguments(sizes: dict[str, Any], image: tuple[int, ...], classes: int) -> dict[str, Any]:
    """The constructor's arguments for images [h, w] or [h, w, c] of so many classes.

    sizes: what a study says about the network (see :mod:`methods.models.networks.params`).
    Raises RetrofitError for a network that needs square images and gets others.
    """
    chosen = {name: value for name, value in sizes.items() if name != "architecture"}
    height, width, channels = (*image, 1)[:3]
    if sizes["architecture"] == "fully_connected":
        return {"inputs": channels * height * width, "classes": classes, **chosen}
    if sizes["architecture"] == "vit":
        if height != width:
            raise RetrofitError(f"network vit takes square images, these are {height} x {width}")
        return {"channels": channels, "classes": classes, "image": height, **chosen}
    return {"channels": channels, "classes": classes, **chosen}


@dataclass
class Network:
    """A module with what is needed to build it again and to feed it.

    arguments: of the module's constructor. mean, std: of each channel, in 0..1, by which images
    are standardised. classes: names, in the order of the logits. notes: JSON-able facts that a
    method wants to travel with the network. quantized: `{dotted name of a linear or convolution
    layer: PackedWeight}`, a convolution's as `[out, in / groups * kh * kw]`. The module's weights
    are always dense; those of the layers in `quantized` equal `PackedWeight.dequantize()`.
    """

    loader: ClassVar[str] = "methods.models.networks.network:load"

    module: nn.Module
    architecture: str
    arguments: dict[str, Any]
    mean: list[float]
    std: list[float]
    classes: list[str]
    notes: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    quantized: dict[str, PackedWeight] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write the configuration and the weights into ``directory`` (created if need be).

        Packed layers are stored as codes, scales and zero points by
        :mod:`methods.export.compressed_tensors`, in one container for all, as language models are:
        so `size/stored` of :mod:`methods.measure.size` is what the file holds.

        Raises RetrofitError when a packed layer is no layer of the network or its dense weight is
        not what the packed form says: what is measured would not be what is stored.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.module.state_dict().items()}
        config = {name: getattr(self, name) for name in FIELDS}
        if self.quantized:
            scheme = compressed_tensors.container(self.quantized)
            for name, packed in self.quantized.items():
                self._check(name, packed)
                del state[f"{name}.weight"]
                state |= compressed_tensors.tensors(name, packed, *scheme)
            config["quantized"] = compressed_tensors.describe(self.quantized)
        (directory / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        save_file(state, directory / WEIGHTS)

    def _check(self, name: str, packed: PackedWeight) -> None:
        layer = dict(self.module.named_modules()).get(name)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise RetrofitError(f"packed layer {name} is no linear or convolution layer")
        weight = layer.weight.detach().cpu().flatten(1)
        if tuple(weight.shape) != packed.shape:
            raise RetrofitError(
                f"packed layer {name} is {packed.shape}, the network's is {tuple(weight.shape)}"
            )
        if not torch.equal(weight, packed.dequantize().to(weight.dtype).cpu()):
            raise RetrofitError(f"the dense weight of {name} differs from its packed form")

    @torch.no_grad()
    def logits(self, x: np.ndarray, batch_size: int = 1000) -> Tensor:
        """float32 [n, classes] in evaluation mode for uint8 [n, h, w] or [n, h, w, c].

        Works batch by batch on the network's own device; the module's mode is left as it was.
        """
        training, device = self.module.training, next(self.module.parameters()).device
        self.module.eval()
        parts = [
            self.module(standardise(as_batch_first(part, device), self.mean, self.std)).float()
            for part in np.split(x, range(batch_size, len(x), batch_size))
        ]
        self.module.train(training)
        return torch.cat(parts).cpu()


def fresh(images: Images, sizes: dict[str, Any], seed: int) -> Network:
    """A network with random weights for images of this kind, standardised by their own moments."""
    built = arguments(sizes, images.x.shape[1:], len(images.classes))
    module = build(sizes["architecture"], built, seed)
    return Network(module, sizes["architecture"], built, *moments(images.x), images.classes)


def load(directory: Path) -> Network:
    """What :meth:`Network.save` wrote, in evaluation mode. Raises RetrofitError on a bad directory."""
    fields, module, packed = read(directory)
    return Network(module, **fields, quantized=packed)


def read(
    directory: Path,
    prepare: Callable[[nn.Module, dict[str, Any]], nn.Module] | None = None,
    packed_weight: Callable[[str, PackedWeight, dict[str, Any]], PackedWeight] | None = None,
) -> tuple[dict[str, Any], nn.Module, dict[str, PackedWeight]]:
    """(fields of the `Network`, its module in evaluation mode, its packed layers) of a directory.

    For networks of which a method has changed the module: prepare(module, configuration) does to a
    fresh one what was done to it. packed_weight(name, packed, configuration) gives a packed layer
    that is read in another way. Raises RetrofitError on a bad directory.
    """
    directory = Path(directory)
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(directory / WEIGHTS)
        module = build(config["architecture"], config["arguments"], seed=0)
        if prepare is not None:
            module = prepare(module, config)
        packed, weights = compressed_tensors.read(weights, config.get("quantized"))
        for name, weight in packed.items():
            if packed_weight is not None:
                packed[name] = weight = packed_weight(name, weight, config)
            dense = module.get_submodule(name).weight
            weights[f"{name}.weight"] = weight.dequantize().view_as(dense)
        module.load_state_dict(weights)
    except RuntimeError:
        raise RetrofitError(
            f"{directory / WEIGHTS} does not fit the network that {CONFIG} beside it describes"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RetrofitError(f"{directory} holds no usable network ({error})") from None
    return {name: config[name] for name in FIELDS}, module.eval(), packed

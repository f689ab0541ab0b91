"""A counting network as a payload, and what it says of an image."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from methods.counting.backbones import STRIDE
from methods.counting.baselines import MCNN, CSRNet
from methods.counting.hmode import HMoDE
from methods.counting.uniform import Uniform
from methods.fit.batches import standardise
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError, choices

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "hmode": HMoDE,
    "mcnn": MCNN,
    "csrnet": CSRNet,
    "uniform": Uniform,
}
CONFIG, WEIGHTS, PICTURES = "config.json", "model.safetensors", "pictures"
FIELDS = ("architecture", "arguments", "mean", "std", "scale", "notes")


def build(architecture: str, arguments: dict[str, Any], seed: int) -> nn.Module:
    """A fresh module; the same seed gives the same weights. RetrofitError for an unknown architecture."""
    if architecture not in ARCHITECTURES:
        raise RetrofitError(
            f"there is no counting network '{architecture}'; {choices(architecture, ARCHITECTURES)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ARCHITECTURES[architecture](**arguments)


@dataclass
class Counter:
    """A module with what is needed to build it again and to feed it.

    scale: what the densities that it predicts are multiplied by. pictures: {name: PNG file}, shown by figures.
    """

    loader: ClassVar[str] = "methods.counting.network:load"

    module: nn.Module
    architecture: str
    arguments: dict[str, Any]
    mean: list[float]
    std: list[float]
    scale: float
    notes: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write configuration, weights and pictures into the directory (created if need be)."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        config = {name: getattr(self, name) for name in FIELDS}
        (directory / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        state = {k: v.detach().cpu().contiguous() for k, v in self.module.state_dict().items()}
        save_file(state, directory / WEIGHTS)
        if self.pictures:
            (directory / PICTURES).mkdir(exist_ok=True)
        for name, body in self.pictures.items():
            (directory / PICTURES / f"{name}.png").write_bytes(body)

    @torch.no_grad()
    def density(self, image: np.ndarray) -> np.ndarray:
        """float64 [h, w], whose sum is the count, for one image uint8 [h, w, 3], in evaluation mode.

        Raises RetrofitError for what is no such image, for one smaller than the network's stride, and where the
        prediction is not finite.
        """
        check_image(image)
        training, device = self.module.training, next(self.module.parameters()).device
        self.module.eval()
        found = self.module(inputs(image[None], self.mean, self.std, device)).density[0, 0]
        self.module.train(training)
        density = found.double().cpu().numpy() / self.scale
        if not np.isfinite(density).all():
            raise RetrofitError("the network predicts a density that is not finite")
        return density

    def count(self, image: np.ndarray) -> float:
        """How many there are in an image uint8 [h, w, 3]; see :meth:`density`."""
        return float(self.density(image).sum())


def check_image(image: np.ndarray, title: str = "an image") -> None:
    """RetrofitError for what is no image uint8 [h, w, 3] or is smaller than the network's stride."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise RetrofitError(
            f"{title} is {image.dtype} {image.shape}; expected uint8 [height, width, 3]"
        )
    if min(image.shape[:2]) < STRIDE:
        raise RetrofitError(
            f"{title} of {image.shape[1]} x {image.shape[0]} pixels is smaller than the network's stride of {STRIDE}"
        )


def inputs(
    images: np.ndarray, mean: list[float], std: list[float], device: str | torch.device
) -> Tensor:
    """uint8 [b, h, w, 3] to standardised float32 [b, 3, h, w] in the memory format that suits convolutions."""
    # A copy, because images that come from a file are not writable.
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).to(device)
    return standardise(pixels, mean, std).contiguous(memory_format=torch.channels_last)


def load(directory: Path) -> Counter:
    """What :meth:`Counter.save` wrote, in evaluation mode. Raises RetrofitError on a bad directory."""
    directory = Path(directory)
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        module = build(config["architecture"], config["arguments"], seed=0)
        module.load_state_dict(load_file(directory / WEIGHTS))
        fields = {name: config[name] for name in FIELDS}
        pictures = {f.stem: f.read_bytes() for f in sorted((directory / PICTURES).glob("*.png"))}
    except RuntimeError:
        raise RetrofitError(
            f"{directory / WEIGHTS} does not fit the network that {CONFIG} beside it describes"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RetrofitError(f"{directory} holds no usable counting network ({error})") from None
    return Counter(module.eval(), **fields, pictures=pictures)

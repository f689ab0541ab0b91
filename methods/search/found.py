"""What a search leaves: the super-network with the architecture found, and trained architectures."""

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

from methods.fit.batches import as_batch_first, standardise
from methods.run.metrics import Metric
from methods.search.choices import Architecture
from methods.search.spaces.building import subnet, supernet
from methods.search.supernet import Supernet
from methods.study.errors import RetrofitError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass
class Searched:
    """A super-network and what was found in it.

    space: the space parameters as a mapping. facts: of the task. epochs: the architecture found
    after each epoch. notes: JSON-able facts of the search that its later steps report.
    """

    loader: ClassVar[str] = "methods.search.found:load_searched"

    supernet: Supernet
    space: dict[str, Any]
    facts: dict[str, Any]
    architecture: Architecture
    epochs: list[Architecture] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    @property
    def module(self) -> nn.Module:
        """The super-network."""
        return self.supernet

    def save(self, directory: Path) -> None:
        """Write configuration and weights into ``directory`` (created if need be)."""
        config = {
            "space": self.space,
            "facts": self.facts,
            "sharing": self.supernet.sharing,
            "architecture": self.architecture,
            "epochs": self.epochs,
            "notes": self.notes,
        }
        _write(directory, config, self.supernet)


@dataclass
class Trained:
    """One architecture as a plain module with its weights, and what it takes to feed it."""

    loader: ClassVar[str] = "methods.search.found:load_trained"

    module: nn.Module
    space: dict[str, Any]
    facts: dict[str, Any]
    architecture: Architecture
    notes: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write configuration and weights into ``directory`` (created if need be)."""
        config = {
            "space": self.space,
            "facts": self.facts,
            "architecture": self.architecture,
            "notes": self.notes,
        }
        _write(directory, config, self.module)

    @torch.no_grad()
    def logits(self, x: np.ndarray, batch_size: int = 1000) -> Tensor:
        """float32 logits in evaluation mode: of uint8 images [n, h, w(, c)], or of bytes [n, T]."""
        device, training = next(self.module.parameters()).device, self.module.training
        self.module.eval()
        parts = []
        for part in np.split(x, range(batch_size, len(x), batch_size)):
            if "mean" in self.facts:
                images = as_batch_first(part, device)
                inputs = standardise(images, self.facts["mean"], self.facts["std"])
            else:
                inputs = torch.from_numpy(np.ascontiguousarray(part)).long().to(device)
            parts.append(self.module(inputs).float())
        self.module.train(training)
        return torch.cat(parts).cpu()


@dataclass
class Candidates:
    """Trained random architectures; `scores` has for each its metrics on test and held-out items."""

    loader: ClassVar[str] = "methods.search.found:load_candidates"

    trained: list[Trained]
    scores: list[dict[str, dict[str, float]]]
    metrics: dict[str, Metric] = field(default_factory=dict)

    @property
    def module(self) -> nn.Module:
        """All of them."""
        return nn.ModuleList(one.module for one in self.trained)

    def save(self, directory: Path) -> None:
        """Write configuration and weights into ``directory`` (created if need be)."""
        first = self.trained[0]
        config = {
            "space": first.space,
            "facts": first.facts,
            "architectures": [one.architecture for one in self.trained],
            "scores": self.scores,
        }
        _write(directory, config, self.module)


def load_searched(directory: Path) -> Searched:
    """What :meth:`Searched.save` wrote. Raises RetrofitError on a bad directory."""
    config, weights = _read(directory)
    with _usable(directory):
        network = supernet(config["space"], config["facts"], config["sharing"])
        network.load_state_dict(weights)
        names = ("space", "facts", "architecture", "epochs", "notes")
        return Searched(network, **{name: config[name] for name in names})


def load_trained(directory: Path) -> Trained:
    """What :meth:`Trained.save` wrote, in evaluation mode. Raises RetrofitError on a bad directory."""
    config, weights = _read(directory)
    with _usable(directory):
        module = subnet(config["space"], config["facts"], config["architecture"], seed=0)
        module.load_state_dict(weights)
        module.eval().requires_grad_(False)
        return Trained(
            module, config["space"], config["facts"], config["architecture"], config["notes"]
        )


def load_candidates(directory: Path) -> Candidates:
    """What :meth:`Candidates.save` wrote. Raises RetrofitError on a bad directory."""
    config, weights = _read(directory)
    with _usable(directory):
        trained = []
        for number, architecture in enumerate(config["architectures"]):
            module = subnet(config["space"], config["facts"], architecture, seed=0)
            prefix = f"{number}."
            own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            module.load_state_dict(own)
            module.eval().requires_grad_(False)
            trained.append(Trained(module, config["space"], config["facts"], architecture))
        return Candidates(trained, config["scores"])


class _usable:  # noqa: N801 - reads as the context manager that it is
    """Any way in which files do not fit becomes one sentence that names the directory."""

    def __init__(self, directory: Path):
        self._directory = directory

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, RuntimeError | KeyError | TypeError | ValueError):
            raise RetrofitError(
                f"{Path(self._directory) / WEIGHTS} does not fit the space that {CONFIG} beside it "
                f"describes"
            ) from None


def _write(directory: Path, config: dict[str, Any], module: nn.Module) -> None:
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    save_file(state, directory / WEIGHTS)


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    directory = Path(directory)
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        return config, load_file(directory / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise RetrofitError(f"{directory} holds no search result ({error})") from None

"""A vision network whose layers have stand-ins, as an artifact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from methods.export import compressed_tensors
from methods.models.networks import network as networks
from methods.models.networks.network import CONFIG, WEIGHTS, Network
from methods.models.networks.resnet import ResNet
from methods.prune.layers import described, installed
from methods.study.errors import RetrofitError

STAND_INS = "stand_ins"


@dataclass
class SparseNetwork(Network):
    """A `Network` that also writes which layers have which stand-ins (``config.json``, ``stand_ins``).

    Masks are not written: what they ruled out is zero, and :func:`methods.prune.sparse_training.attach`
    is for training.
    """

    loader: ClassVar[str] = "methods.prune.network:load"

    def save(self, directory: Path) -> None:
        """Write configuration and weights; raises RetrofitError as `Network.save` does."""
        super().save(directory)
        path = Path(directory) / CONFIG
        config = json.loads(path.read_text(encoding="utf-8"))
        config[STAND_INS] = described(self.module)
        path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def build(architecture: str, arguments: dict[str, Any], seed: int) -> nn.Module:
    """As :func:`methods.models.networks.network.build`, which also knows `resnet`."""
    if architecture != "resnet":
        return networks.build(architecture, arguments, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet(**arguments)


def load(directory: Path) -> SparseNetwork:
    """What :meth:`SparseNetwork.save` wrote, in evaluation mode. Raises RetrofitError."""
    directory = Path(directory)
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(directory / WEIGHTS)
        module = installed(
            build(config["architecture"], config["arguments"], seed=0), config[STAND_INS]
        )
        packed, weights = compressed_tensors.read(weights, config.get("quantized"))
        for name, weight in packed.items():
            dense = module.get_submodule(name).weight
            weights[f"{name}.weight"] = weight.dequantize().view_as(dense)
        module.load_state_dict(weights)
    except RuntimeError:
        raise RetrofitError(
            f"{directory / WEIGHTS} does not fit the network that {CONFIG} beside it describes"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RetrofitError(f"{directory} holds no usable sparse network ({error})") from None
    fields = ("architecture", "arguments", "mean", "std", "classes", "notes")
    return SparseNetwork(module.eval(), **{name: config[name] for name in fields}, quantized=packed)

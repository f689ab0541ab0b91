"""A network trained through the rounding, as an artifact: what trains on, and what would be deployed.

    config.json, model.safetensors     float weights, steps and shifts; the next step goes on from these
    integer/                           codes and scales in place of the float weights, and nothing else
    teacher/                           the float network that it learned from, where there was one

`integer/` is written from the network and loaded back; saving fails unless the logits are the same to
the bit.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from methods.export import compressed_tensors
from methods.export.packed import PackedWeight
from methods.models.networks import network as networks
from methods.models.networks.network import CONFIG, FIELDS, WEIGHTS, Network
from methods.quantize_aware.modules import MidRiseWeight, deploy_layers, masters
from methods.quantize_aware.plans import Plan, from_json, to_json
from methods.quantize_aware.swap import swap
from methods.study.errors import RetrofitError

INTEGER, TEACHER = "integer", "teacher"


@torch.no_grad()
def packed_weights(module: nn.Module) -> dict[str, PackedWeight]:
    """`{name: codes and scales}` of every rounded weight; a convolution's filters are rows."""
    return {name: quantizer.packed(rows) for name, (rows, quantizer) in masters(module).items()}


@torch.no_grad()
def integer_weights(module: nn.Module) -> dict[str, tuple[Tensor, Tensor, float]]:
    """`{name: (int8 codes [out, in], float32 scale [out], offset)}`, with w = scale (code + offset).

    offset: 0.5 for StatsQ, whose levels lie between the integers (so 2 code + 1 are odd integers of a
    bit more, with half the scale), 0 for LSQ. Works on any module with quantised layers.
    """
    found = {}
    for name, packed in packed_weights(module).items():
        codes = (packed.codes.to(torch.int16) - packed.zero).to(torch.int8)
        offset = 0.5 if isinstance(packed, MidRiseWeight) else 0.0
        found[name] = (codes, packed.scale[:, 0].clone(), offset)
    return found


@dataclass
class QuantizedNetwork(Network):
    """A :class:`Network` whose module has quantised layers.

    plans: what :func:`methods.quantize_aware.swap.swap` put where. teacher: the float network of the
    step before. ``quantized`` and ``network`` describe the deployed form, which is what
    :mod:`methods.measure.size` measures.
    """

    loader: ClassVar[str] = "methods.quantize_aware.payload:load"

    plans: dict[str, Plan] = field(default_factory=dict)
    teacher: Network | None = None

    def __post_init__(self):
        self.quantized = packed_weights(self.module)

    @cached_property
    def network(self) -> nn.Module:
        """The deployed module: rounded weights, and no float ones behind them."""
        return deploy_layers(copy.deepcopy(self.module)).eval().requires_grad_(False)

    def save(self, directory: Path) -> None:
        """Write all that the module's docstring lists into ``directory``.

        Raises RetrofitError when the integer form, loaded back, gives other logits.
        """
        directory = Path(directory)
        config = {name: getattr(self, name) for name in FIELDS}
        _write(directory, config | {"plans": to_json(self.plans)}, self.module.state_dict())
        if self.teacher is not None:
            self.teacher.save(directory / TEACHER)
        self._save_integer(directory / INTEGER)

    def _save_integer(self, directory: Path) -> None:
        state = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        config = {name: getattr(self, name) for name in FIELDS}
        plans = {name: {**plan, "weights": INTEGER} for name, plan in to_json(self.plans).items()}
        config |= {"plans": plans}
        if self.quantized:
            scheme = compressed_tensors.container(self.quantized)
            for name, packed in self.quantized.items():
                weight = state.pop(f"{name}.weight").flatten(1)
                if not torch.equal(weight, packed.dequantize()):
                    raise RetrofitError(f"the codes of {name} do not give the weight that is used")
                state |= compressed_tensors.tensors(name, packed, *scheme)
            config["quantized"] = compressed_tensors.describe(self.quantized)
            config["mid_rise"] = [
                name for name, packed in self.quantized.items() if isinstance(packed, MidRiseWeight)
            ]
        _write(directory, config, state)
        self._check(directory)

    @torch.no_grad()
    def _check(self, directory: Path) -> None:
        shape = input_shape(self.arguments, self.architecture)
        x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
        again = load_integer(directory).module
        mine = copy.deepcopy(self.module).cpu().eval()
        if not torch.equal(again(x), mine(x)):
            raise RetrofitError("the integer form, loaded back, gives other logits")


def input_shape(arguments: dict[str, Any], architecture: str) -> tuple[int, ...]:
    """The shape of one input of a network: `[c, h, w]`, or `[inputs]`."""
    if architecture == "fully_connected":
        return (arguments["inputs"],)
    side = arguments.get("image", 32)
    return arguments.get("channels", 3), side, side


def _write(directory: Path, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.items()}
    save_file(tensors, directory / WEIGHTS)


def load(directory: Path) -> QuantizedNetwork:
    """What :meth:`QuantizedNetwork.save` wrote, in evaluation mode, with its float weights.

    Raises RetrofitError on a bad directory.
    """
    fields, module, plans = _read(directory)
    teacher = Path(directory) / TEACHER
    return QuantizedNetwork(
        module,
        **fields,
        plans=plans,
        teacher=networks.load(teacher) if teacher.is_dir() else None,
    )


def load_integer(directory: Path) -> Network:
    """The deployed network from its codes and scales (`integer/` of an artifact), to be used.

    Raises RetrofitError on a bad directory.
    """
    fields, module, _ = _read(directory)
    return Network(module.requires_grad_(False), **fields)


def _read(directory: Path) -> tuple[dict[str, Any], nn.Module, dict[str, Plan]]:
    plans: dict[str, Plan] = {}

    def prepare(module: nn.Module, config: dict[str, Any]) -> nn.Module:
        plans.update(from_json(config["plans"]))
        return swap(module, plans)

    fields, module, _ = networks.read(directory, prepare, _as_its_grid)
    return fields, module, plans


def _as_its_grid(name: str, packed: PackedWeight, config: dict[str, Any]) -> PackedWeight:
    return MidRiseWeight(**vars(packed)) if name in config["mid_rise"] else packed

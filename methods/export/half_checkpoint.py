"""What AWQ GEMM and GPTQ checkpoints share: float16 dense tensors, packed layers, one section of config.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from methods.export.packed import PackedWeight
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.models.language import LanguageModel

LARGEST_ROUNDING = 2.0**-10
"""Relative error of a float16 scale; more means that it fell into float16's subnormal range."""


def rounded(name: str, weight: PackedWeight) -> PackedWeight:
    """`weight` with its scales rounded to float16, which is what these formats can hold.

    Raises RetrofitError where float16 cannot hold a scale that matters.
    """
    scale = weight.scale.half().float()
    by_group = weight.codes.to(torch.int32).reshape(weight.shape[0], weight.groups, -1)
    in_use = (by_group != weight.zero.to(torch.int32)[:, :, None]).any(-1)
    error = ((scale - weight.scale).abs() / weight.scale.abs().clamp(min=1e-38))[in_use]
    if error.numel() and not bool((error <= LARGEST_ROUNDING).all()):
        raise RetrofitError(f"{name} has a scale that float16 cannot hold; use compressed-tensors")
    return PackedWeight(
        weight.codes, scale, weight.zero, weight.bits, weight.group_size, weight.symmetric
    )


def write(
    model: LanguageModel,
    directory: Path,
    layer: Callable[[PackedWeight], dict[str, torch.Tensor]],
    section: dict[str, Any],
) -> None:
    """Write `model` into `directory`.

    layer: the stored tensors of a packed layer, by the end of their names; its scales are rounded
    already. section: `quantization_config`. Raises RetrofitError for a dense value beyond float16.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    packed_names = {f"{name}.weight" for name in model.quantized}
    tensors: dict[str, torch.Tensor] = {}
    stored: set[int] = set()
    for key, value in model.model.state_dict().items():
        if key in packed_names or value.data_ptr() in stored:
            continue  # a tied weight is stored once, under its first name
        stored.add(value.data_ptr())
        tensors[key] = value.half().cpu().contiguous() if value.is_floating_point() else value.cpu()
        if not torch.isfinite(tensors[key]).all():
            raise RetrofitError(f"{key} holds a value beyond float16's range")
    for name, weight in model.quantized.items():
        parts = layer(rounded(name, weight))
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = model.model.config.to_dict()
    config["dtype"] = "float16"
    config["architectures"] = [type(model.model).__name__]
    config["quantization_config"] = section
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (directory / "config.json").write_text(text + "\n", "utf-8")
    model.model.generation_config.save_pretrained(directory)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(directory)


def section_of(directory: Path) -> dict[str, Any]:
    """The `quantization_config` of a model directory; empty where there is none."""
    config = json.loads((Path(directory) / "config.json").read_text("utf-8"))
    return config.get("quantization_config") or {}


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    """All stored tensors."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(Path(directory).glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def layers_in(tensors: dict[str, torch.Tensor]) -> Iterator[str]:
    """Names of the packed layers; tensors may be taken out of `tensors` meanwhile."""
    for key in [key for key in tensors if key.endswith(".qweight")]:
        yield key.removesuffix(".qweight")

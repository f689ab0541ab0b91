"""The compressed-tensors "pack-quantized" checkpoint: integer weights that transformers loads on a CPU.

Per quantised linear layer `m` (out x in, b bits, groups of g input columns), beside what stays dense:

    m.weight_packed      int32 [out, ceil(in*b/32)]      unsigned codes, dense little-endian stream
    m.weight_scale       float32 [out, in/g]
    m.weight_zero_point  int32 [ceil(out*b/32), in/g]    unsigned codes, packed along the output rows;
                                                          absent when symmetric
    m.weight_shape       int64 [2]

Two choices keep the checkpoint usable and exact with transformers 5.23. `"dequantize": true` stands in
`config.json`, because the default path lays out packed zero points with the wrong shape and fails; and
scales are float32, because dequantisation runs in the dtype of the scale.

transformers decodes a whole checkpoint with one scheme. Layers of different widths therefore share a
*container*: the widest code and the finest group of the model; their own description is kept beside it
and restored by our reader.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from methods.export import bitstream
from methods.export.packed import PackedWeight
from methods.study.errors import RetrofitError

BITS = (2, 3, 4, 8)
"""Widths that this writer offers; the format itself knows 1 to 8."""
SUFFIXES = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")


def container(quantized: Mapping[str, PackedWeight]) -> tuple[int, int, bool]:
    """(bits, group size, symmetric) of the one scheme that holds every layer exactly."""
    bits = {weight.bits for weight in quantized.values()}
    sizes = {weight.group_size for weight in quantized.values()}
    symmetric = len(bits) == 1 and all(weight.symmetric for weight in quantized.values())
    if len(sizes) == 1:
        return max(bits), sizes.pop(), symmetric
    finest = math.gcd(*(weight.columns_per_group for weight in quantized.values()))
    return max(bits), finest, symmetric


def check_bits(quantized: Mapping[str, PackedWeight]) -> None:
    """Raise RetrofitError for a layer whose width this format does not offer."""
    for name, weight in quantized.items():
        if weight.bits not in BITS:
            raise RetrofitError(
                f"{name} has {weight.bits} bits; compressed-tensors holds "
                f"{', '.join(map(str, BITS))} bits here"
            )


def tensors(
    name: str, weight: PackedWeight, bits: int, group_size: int, symmetric: bool
) -> dict[str, torch.Tensor]:
    """The stored tensors of layer `name`, in the given container scheme."""
    columns = weight.shape[1] if group_size == -1 else group_size
    repeat = weight.columns_per_group // columns
    scale = weight.scale.repeat_interleave(repeat, dim=1).contiguous()
    stored = {
        f"{name}.weight_packed": bitstream.pack(weight.codes, bits),
        f"{name}.weight_scale": scale,
        f"{name}.weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    if not symmetric:
        zero = weight.zero.repeat_interleave(repeat, dim=1)
        stored[f"{name}.weight_zero_point"] = bitstream.pack(zero.T, bits).T.contiguous()
    return stored


def stored_bytes(weight: PackedWeight, bits: int, group_size: int, symmetric: bool) -> int:
    """Bytes of what `tensors` returns, without packing anything."""
    rows, columns = weight.shape
    groups = 1 if group_size == -1 else columns // group_size
    words = rows * math.ceil(columns * bits / 32) + rows * groups
    zeros = 0 if symmetric else math.ceil(rows * bits / 32) * groups
    return 4 * (words + zeros) + 2 * 8


def quantization_config(
    quantized: Mapping[str, PackedWeight], dense_linears: list[str]
) -> dict[str, object]:
    """The `quantization_config` section of `config.json`.

    dense_linears: names of the linear layers that stay dense (the head, for example).
    """
    bits, group_size, symmetric = container(quantized)
    weights: dict[str, object] = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if group_size == -1 else "group",
        "dynamic": False,
    }
    if group_size != -1:
        weights["group_size"] = group_size
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": sorted(dense_linears),
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "dequantize": True,
    }


def read(
    stored: Mapping[str, torch.Tensor], described: Mapping[str, Mapping] | None = None
) -> tuple[dict[str, PackedWeight], dict[str, torch.Tensor]]:
    """Split a checkpoint's tensors into `({layer: PackedWeight}, dense tensors)`.

    Width and group are read off the shapes, so files of other writers are understood as well.
    described: `{layer: {bits, group_size, symmetric}}` where a container is wider than the layer.
    Raises RetrofitError for parts that do not fit or orders (`weight_g_idx`) that are not supported.
    """
    described = described or {}
    layers = [
        key.removesuffix(".weight_packed") for key in stored if key.endswith(".weight_packed")
    ]
    packed: dict[str, PackedWeight] = {}
    for name in layers:
        if f"{name}.weight_g_idx" in stored:
            raise RetrofitError(
                f"{name}: columns in activation order (weight_g_idx) are unsupported"
            )
        try:
            packed[name] = _read_layer(name, stored, described.get(name))
        except KeyError as missing:
            raise RetrofitError(f"{name}: the checkpoint lacks the tensor {missing}") from None
    taken = {f"{name}.{suffix}" for name in layers for suffix in SUFFIXES}
    return packed, {key: value for key, value in stored.items() if key not in taken}


def _read_layer(name: str, stored: Mapping, described: Mapping | None) -> PackedWeight:
    words, scale = stored[f"{name}.weight_packed"], stored[f"{name}.weight_scale"].float()
    rows, columns = (int(size) for size in stored[f"{name}.weight_shape"])
    fits = [b for b in range(1, 9) if math.ceil(columns * b / 32) == words.shape[1]]
    if words.shape[0] != rows or not fits:
        raise RetrofitError(
            f"{name}: packed shape {tuple(words.shape)} does not hold a {rows} x {columns} weight"
        )
    zero_words = stored.get(f"{name}.weight_zero_point")
    # Narrow layers can fit several widths; the recorded description decides, else the widest.
    bits = int(described["container_bits"]) if described else max(fits)
    groups = scale.shape[1]
    if zero_words is None:
        zero = torch.full((rows, groups), 2 ** (bits - 1), dtype=torch.int32)
    else:
        zero = bitstream.unpack(zero_words.T, bits, rows).T.to(torch.int32)
    parts = {
        "bits": bits,
        "group_size": -1 if groups == 1 else columns // groups,
        "symmetric": zero_words is None,
    }
    if described:
        parts = {key: described[key] for key in parts}
        wide = columns if parts["group_size"] == -1 else parts["group_size"]
        repeat = wide // (columns // groups)
        scale, zero = scale[:, ::repeat], zero[:, ::repeat]
    codes = bitstream.unpack(words, bits, columns)
    return PackedWeight(codes, scale.contiguous(), zero.contiguous(), **parts)


def describe(quantized: Mapping[str, PackedWeight]) -> dict[str, dict]:
    """What `read` needs to restore each layer's own description from the shared container."""
    bits, _, _ = container(quantized)
    return {
        name: {
            "bits": weight.bits,
            "group_size": weight.group_size,
            "symmetric": weight.symmetric,
            "container_bits": bits,
        }
        for name, weight in quantized.items()
    }

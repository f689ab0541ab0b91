"""The AWQ "GEMM" checkpoint, which vLLM, TGI, SGLang and transformers (with gptqmodel) read.

Only 4 bits, one group size for all layers. Per quantised linear layer `m` (out x in, groups of g):

    m.qweight  int32 [in, out/8]      eight output columns in a word
    m.qzeros   int32 [in/g, out/8]    zero points, packed alike
    m.scales   float16 [in/g, out]
    m.bias     float16 [out], where there is one

Nibble i (lowest first) of word c holds output column `8c + ORDER[i]`: the interleaving that AutoAWQ's
CUDA kernel wanted and every reader since expects. Dense tensors are float16.

Scales are float32 in memory and float16 here, so a weight moves by up to 2^-11 of itself; the check
after an export compares with the model that has these rounded scales (exactly) and with the model in
memory (within the format's tolerance).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from methods.export import half_checkpoint
from methods.export.packed import PackedWeight
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.models.language import LanguageModel

BITS = 4
PER_WORD = 8
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack_columns(codes: torch.Tensor) -> torch.Tensor:
    """Codes 0..15 `[rows, columns]` as int32 `[rows, columns/8]` in the interleaved order.

    Raises RetrofitError when the columns do not fill whole words.
    """
    rows, columns = codes.shape
    if columns % PER_WORD:
        raise RetrofitError(
            f"AWQ GEMM packs 8 output columns in a word; {columns} is no multiple of 8"
        )
    nibbles = codes.to(torch.int64).reshape(rows, columns // PER_WORD, PER_WORD)[:, :, list(ORDER)]
    words = (nibbles << (4 * torch.arange(PER_WORD))).sum(-1)
    # The highest nibble reaches the sign bit of a 32-bit word.
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack_columns(words: torch.Tensor) -> torch.Tensor:
    """The uint8 codes `[rows, columns]` that `pack_columns` was given."""
    rows, count = words.shape
    nibbles = (words.to(torch.int64)[:, :, None] >> (4 * torch.arange(PER_WORD))) & 15
    codes = torch.empty(rows, count, PER_WORD, dtype=torch.uint8)
    codes[:, :, list(ORDER)] = nibbles.to(torch.uint8)
    return codes.reshape(rows, count * PER_WORD)


def check_layers(quantized: Mapping[str, PackedWeight]) -> int:
    """The common group size; RetrofitError names the layer that the format cannot hold."""
    sizes: dict[int, str] = {}
    for name, weight in quantized.items():
        if weight.bits != BITS:
            raise RetrofitError(
                f"{name} has {weight.bits} bits; AWQ GEMM holds 4 bits only (compressed-tensors holds "
                "2, 3, 4 and 8)"
            )
        if weight.shape[0] % PER_WORD:
            raise RetrofitError(
                f"{name} has {weight.shape[0]} output columns; AWQ GEMM packs 8 of them in a word"
            )
        sizes.setdefault(weight.group_size, name)
    if len(sizes) != 1:
        raise RetrofitError(
            "AWQ GEMM has one group size for all layers; found "
            + ", ".join(f"{size} ({name})" for size, name in sizes.items())
        )
    return next(iter(sizes))


def write(model: LanguageModel, directory: Path) -> None:
    """Write `model` into `directory`; RetrofitError for layers that the format cannot hold."""
    group_size = check_layers(model.quantized)
    linears = {n for n, m in model.model.named_modules() if isinstance(m, nn.Linear)}
    section = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": BITS,
        "group_size": group_size,
        "zero_point": True,
        "modules_to_not_convert": sorted(linears - set(model.quantized)),
        # gptqmodel's automatic choice compiles C++ for minutes on a CPU; the other readers of this
        # format choose their own kernel and ignore the entry.
        "backend": "torch_awq",
    }
    half_checkpoint.write(model, directory, _stored, section)


def _stored(weight: PackedWeight) -> dict[str, torch.Tensor]:
    return {
        "qweight": pack_columns(weight.codes.T),
        "qzeros": pack_columns(weight.zero.T),
        "scales": weight.scale.T.half().contiguous(),
    }


def read(directory: Path) -> tuple[dict[str, PackedWeight], dict[str, torch.Tensor]]:
    """`({layer: PackedWeight}, dense tensors)` of an AWQ GEMM directory, by our own unpacker.

    Raises RetrofitError for another format or parts that do not fit together.
    """
    section = half_checkpoint.section_of(directory)
    if section.get("quant_method") != "awq" or section.get("version", "").lower() != "gemm":
        raise RetrofitError(f"{directory} is no AWQ GEMM checkpoint")
    tensors = half_checkpoint.tensors_of(directory)
    packed: dict[str, PackedWeight] = {}
    for name in half_checkpoint.layers_in(tensors):
        codes = unpack_columns(tensors.pop(f"{name}.qweight")).T.contiguous()
        zero = unpack_columns(tensors.pop(f"{name}.qzeros")).T.to(torch.int32).contiguous()
        scale = tensors.pop(f"{name}.scales").T.float().contiguous()
        symmetric = bool((zero == 2 ** (BITS - 1)).all())
        packed[name] = PackedWeight(codes, scale, zero, BITS, section["group_size"], symmetric)
    return packed, tensors

"""The GPTQ checkpoint, versions 1 and 2, which vLLM, ExLlama and transformers (with gptqmodel) read.

One width of 2, 3, 4 or 8 bits and one group size for all layers. Per quantised linear layer `m`
(out x in, groups of g, b bits):

    m.qweight  int32 [in*b/32, out]     codes of a column, from the first input row on
    m.qzeros   int32 [in/g, out*b/32]   zero points (version 1: minus one) of a group
    m.scales   float16 [in/g, out]
    m.g_idx    int32 [in]               group of each input; here always i // g
    m.bias     float16 [out], where there is one

Codes and zero points are dense little-endian streams, so 32 codes of 3 bits fill three words and two
of them cross a border (the 11th and the 22nd), as gptqmodel's packer and vLLM's 3-bit kernel have it.

**Zero points of 0.** Version 1 stores zero points minus one, so 0 becomes the largest code, and what
comes back depends on the reader. gptqmodel 7.7.0 adds one to whole words: at 2, 4 and 8 bits the carry
raises the zero point of the next output as well (measured: its weights are off by one step), at 3 bits
it wraps inside the field. vLLM's kernels add one after unpacking and subtract 2^b. A layer with such a
group (it has no negative weight) is therefore refused; version 2 stores zero points as they are and
keeps it. Few groups have one (11 of 1.7 million of SmolLM2-135M after AWQ and GPTQ at 4 bits), but one
is enough, so asymmetric models often need version 2, which vLLM reads since late 2025.

**Proved** with gptqmodel 7.7.0, optimum 2.3.0, transformers 5.23.0 and torch 2.13.0 on a CPU: tiny
Llama, Qwen2 and Mistral with grouped queries load by `from_pretrained` in both versions at each width;
the distances are in `benchmarks/README.md`. vLLM itself was read, not run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from methods.export import bitstream, half_checkpoint
from methods.export.packed import PackedWeight
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.models.language import LanguageModel

BITS = (2, 3, 4, 8)
WORD = 32
VERSIONS = {1: "gptq", 2: "gptq_v2"}
"""{version: how `config.json` names it}"""


def pack_rows(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes `[rows, columns]` as int32 `[rows * bits / 32, columns]`, lowest bits first.

    Raises RetrofitError when the rows do not fill whole words.
    """
    whole = rows_per_block(bits)
    if codes.shape[0] % whole:
        raise RetrofitError(
            f"GPTQ packs {whole} codes of {bits} bits in whole words; "
            f"{codes.shape[0]} is no multiple of that"
        )
    return bitstream.pack(codes.T.contiguous(), bits).T.contiguous()


def unpack_rows(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The uint8 codes `[rows, columns]` that `pack_rows` was given."""
    rows = words.shape[0] * WORD // bits
    return bitstream.unpack(words.T.contiguous(), bits, rows).T.contiguous()


def rows_per_block(bits: int) -> int:
    """Codes that fill whole words: 16, 32, 8 and 4 of 2, 3, 4 and 8 bits."""
    return WORD // math.gcd(bits, WORD)


def check_layers(quantized: Mapping[str, PackedWeight], version: int = 1) -> tuple[int, int]:
    """The common width and group size; RetrofitError names the layer that the format cannot hold."""
    kinds: dict[tuple[int, int], str] = {}
    for name, weight in quantized.items():
        if weight.bits not in BITS:
            raise RetrofitError(
                f"{name} has {weight.bits} bits; GPTQ holds {', '.join(map(str, BITS))}"
            )
        whole = rows_per_block(weight.bits)
        for what, size in zip(("outputs", "inputs"), weight.shape, strict=True):
            if size % whole:
                raise RetrofitError(
                    f"{name} has {size} {what}; GPTQ packs {whole} of them in whole words at "
                    f"{weight.bits} bits"
                )
        if version == 1 and bool((weight.zero == 0).any()):
            raise RetrofitError(
                f"{name} has a zero point of 0, which readers of GPTQ v1 do not agree about; "
                "use gptq-v2, compressed-tensors or, at 4 bits, awq-gemm"
            )
        kinds.setdefault((weight.bits, weight.group_size), name)
    if len(kinds) != 1:
        raise RetrofitError(
            "GPTQ has one width and group size for all layers; found "
            + ", ".join(f"{b} bits in groups of {g} ({name})" for (b, g), name in kinds.items())
        )
    return next(iter(kinds))


def write(model: LanguageModel, directory: Path, version: int = 1) -> None:
    """Write `model` into `directory`; RetrofitError for layers that the format cannot hold."""
    bits, group_size = check_layers(model.quantized, version)
    offset = 1 if version == 1 else 0

    def stored(weight: PackedWeight) -> dict[str, torch.Tensor]:
        group = torch.arange(weight.shape[1]) // weight.columns_per_group
        return {
            "qweight": pack_rows(weight.codes.T, bits),
            "qzeros": pack_rows(weight.zero - offset, bits).T.contiguous(),
            "scales": weight.scale.T.half().contiguous(),
            "g_idx": group.to(torch.int32),
        }

    section = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group_size,
        "desc_act": False,
        "sym": all(weight.symmetric for weight in model.quantized.values()),
        "checkpoint_format": VERSIONS[version],
        "lm_head": False,
        # gptqmodel's automatic choice compiles C++ for minutes on a CPU; other readers ignore it.
        "backend": "torch",
    }
    half_checkpoint.write(model, directory, stored, section)


def read(directory: Path) -> tuple[dict[str, PackedWeight], dict[str, torch.Tensor]]:
    """`({layer: PackedWeight}, dense tensors)` of a GPTQ directory, by our own unpacker.

    Raises RetrofitError for another format or an order of columns (`g_idx`) that is not plain.
    """
    section = half_checkpoint.section_of(directory)
    written = section.get("checkpoint_format")
    if section.get("quant_method") != "gptq" or written not in VERSIONS.values():
        raise RetrofitError(f"{directory} is no GPTQ checkpoint of version 1 or 2")
    offset = 1 if written == VERSIONS[1] else 0
    bits, group_size = section["bits"], section["group_size"]
    tensors = half_checkpoint.tensors_of(directory)
    packed: dict[str, PackedWeight] = {}
    for name in half_checkpoint.layers_in(tensors):
        codes = unpack_rows(tensors.pop(f"{name}.qweight"), bits).T.contiguous()
        zero = unpack_rows(tensors.pop(f"{name}.qzeros").T, bits).to(torch.int32) + offset
        scale = tensors.pop(f"{name}.scales").T.float().contiguous()
        order = tensors.pop(f"{name}.g_idx")
        if bool((order[1:] < order[:-1]).any()):
            raise RetrofitError(f"{name}: columns in activation order (g_idx) are unsupported")
        packed[name] = PackedWeight(
            codes, scale, zero.contiguous(), bits, group_size, bool(section["sym"])
        )
    return packed, tensors

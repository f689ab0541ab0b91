"""The GPTQ checkpoint, version 1, which vLLM, TGI, ExLlama and transformers (with gptqmodel) read.

One width of 2, 4 or 8 bits and one group size for all layers. Per quantised linear layer `m`
(out x in, groups of g, b bits, p = 32 / b codes in a word):

    m.qweight  int32 [in/p, out]      code of input row p r + i in bits i b … of word r
    m.qzeros   int32 [in/g, out/p]    zero points minus one, packed along the outputs
    m.scales   float16 [in/g, out]
    m.g_idx    int32 [in]             group of each input; here always i // g
    m.bias     float16 [out], where there is one

Version 1 stores zero points minus one, in as many bits; its readers add one after unpacking and do not
wrap. A zero point of 0 would be stored as all ones and read as 2^b, so layers that have one are
refused: their groups hold no negative weight, and AWQ GEMM or compressed-tensors keeps them. 3 bits
straddle words in a way that readers do not share, so they are refused too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from methods.export.awq_gemm import rounded
from methods.export.packed import PackedWeight
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.models.language import LanguageModel

BITS = (2, 4, 8)
WORD = 32


def pack_rows(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes `[rows, columns]` as int32 `[rows * bits / 32, columns]`, lowest bits first.

    Raises RetrofitError when the rows do not fill whole words.
    """
    rows, columns = codes.shape
    per_word = WORD // bits
    if rows % per_word:
        raise RetrofitError(
            f"GPTQ packs {per_word} codes of {bits} bits in a word; {rows} is no multiple of that"
        )
    parts = codes.to(torch.int64).reshape(rows // per_word, per_word, columns)
    words = (parts << (bits * torch.arange(per_word))[:, None]).sum(1)
    # The highest code reaches the sign bit of a 32-bit word.
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack_rows(words: torch.Tensor, bits: int) -> torch.Tensor:
    """The uint8 codes `[rows, columns]` that `pack_rows` was given."""
    per_word = WORD // bits
    shifts = (bits * torch.arange(per_word))[:, None]
    parts = (words.to(torch.int64)[:, None] >> shifts) & (2**bits - 1)
    return parts.flatten(0, 1).to(torch.uint8)


def check_layers(quantized: Mapping[str, PackedWeight]) -> tuple[int, int]:
    """The common width and group size; RetrofitError names the layer that the format cannot hold."""
    kinds: dict[tuple[int, int], str] = {}
    for name, weight in quantized.items():
        if weight.bits not in BITS:
            raise RetrofitError(
                f"{name} has {weight.bits} bits; GPTQ v1 holds {', '.join(map(str, BITS))} here "
                "(compressed-tensors holds 3 as well)"
            )
        if bool((weight.zero == 0).any()):
            raise RetrofitError(
                f"{name} has a zero point of 0, which GPTQ v1 cannot store; "
                "use compressed-tensors or, at 4 bits, awq-gemm"
            )
        if weight.shape[0] % (WORD // weight.bits):
            raise RetrofitError(
                f"{name} has {weight.shape[0]} outputs; GPTQ packs {WORD // weight.bits} of them in a word"
            )
        kinds.setdefault((weight.bits, weight.group_size), name)
    if len(kinds) != 1:
        raise RetrofitError(
            "GPTQ v1 has one width and group size for all layers; found "
            + ", ".join(f"{b} bits in groups of {g} ({name})" for (b, g), name in kinds.items())
        )
    return next(iter(kinds))


def write(model: LanguageModel, directory: Path) -> None:
    """Write `model` into `directory`; RetrofitError for layers that the format cannot hold."""
    bits, group_size = check_layers(model.quantized)
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
        weight = rounded(name, weight)
        tensors[f"{name}.qweight"] = pack_rows(weight.codes.T, bits)
        tensors[f"{name}.qzeros"] = pack_rows(weight.zero - 1, bits).T.contiguous()
        tensors[f"{name}.scales"] = weight.scale.T.half().contiguous()
        group = torch.arange(weight.shape[1]) // weight.columns_per_group
        tensors[f"{name}.g_idx"] = group.to(torch.int32)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = model.model.config.to_dict()
    config["dtype"] = "float16"
    config["architectures"] = [type(model.model).__name__]
    config["quantization_config"] = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group_size,
        "desc_act": False,
        "sym": all(weight.symmetric for weight in model.quantized.values()),
        "checkpoint_format": "gptq",
        "lm_head": False,
        # gptqmodel's automatic choice compiles C++ for minutes on a CPU; other readers ignore it.
        "backend": "torch",
    }
    text = json.dumps(config, indent=2, sort_keys=True, default=str)
    (directory / "config.json").write_text(text + "\n", "utf-8")
    model.model.generation_config.save_pretrained(directory)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(directory)


def read(directory: Path) -> tuple[dict[str, PackedWeight], dict[str, torch.Tensor]]:
    """`({layer: PackedWeight}, dense tensors)` of a GPTQ v1 directory, by our own unpacker.

    Raises RetrofitError for another format or an order of columns (`g_idx`) that is not plain.
    """
    directory = Path(directory)
    config = json.loads((directory / "config.json").read_text("utf-8"))
    section = config.get("quantization_config") or {}
    if section.get("quant_method") != "gptq" or section.get("checkpoint_format") != "gptq":
        raise RetrofitError(f"{directory} is no GPTQ v1 checkpoint")
    bits, group_size = section["bits"], section["group_size"]
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(path)
    packed: dict[str, PackedWeight] = {}
    for key in [key for key in tensors if key.endswith(".qweight")]:
        name = key.removesuffix(".qweight")
        codes = unpack_rows(tensors.pop(key), bits).T.contiguous()
        zero = unpack_rows(tensors.pop(f"{name}.qzeros").T, bits).to(torch.int32) + 1
        scale = tensors.pop(f"{name}.scales").T.float().contiguous()
        order = tensors.pop(f"{name}.g_idx")
        if bool((order[1:] < order[:-1]).any()):
            raise RetrofitError(f"{name}: columns in activation order (g_idx) are unsupported")
        packed[name] = PackedWeight(
            codes, scale, zero.contiguous(), bits, group_size, bool(section["sym"])
        )
    return packed, tensors

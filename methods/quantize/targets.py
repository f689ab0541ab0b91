"""What the methods of this family share around their mathematics: which layers, and the result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from methods.models.blocks import block_linears, decoder_blocks
from methods.models.language import LanguageModel
from methods.quantize.widths import check_group_size
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.export.packed import PackedWeight
    from methods.quantize.params import GridParams


def targets(base: LanguageModel | None, params: GridParams) -> list[tuple[str, nn.Module]]:
    """`[(name, decoder block)]` of a model that can be quantised; every layer is looked at first.

    Embeddings and the output head stay as they are. Raises RetrofitError: no base, quantised
    already, no linear layer in a block, group size that does not divide a layer, weights that are
    not finite.
    """
    if base is None:
        raise RetrofitError(f"{params.method} needs a base model: give the study a `base:`")
    if base.quantized:
        raise RetrofitError(
            f"{params.method}: the model is quantised already ({len(base.quantized)} layers); "
            "start from a float model, or let the step before return one (awq: `quantize: false`)"
        )
    blocks = decoder_blocks(base.model)
    widths = {
        f"{name}.{layer}": linear.in_features
        for name, block in blocks
        for layer, linear in block_linears(block).items()
    }
    if not widths:
        raise RetrofitError(
            f"{params.method}: the blocks of {type(base.model).__name__} have no linear layer, "
            "so nothing would be quantised"
        )
    check_group_size(widths, params.group_size)
    for name, block in blocks:
        for layer, linear in block_linears(block).items():
            if not torch.isfinite(linear.weight).all():
                raise RetrofitError(
                    f"{params.method}: the weight of {name}.{layer} is not finite (NaN or infinity)"
                )
    return blocks


def store(block: nn.Module, packed: dict[str, PackedWeight]) -> None:
    """Put the rounded weights into the block's layers, in the layers' own type."""
    for name, weight in packed.items():
        layer = block.get_submodule(name)
        layer.weight.data = weight.dequantize().to(layer.weight)


def noted(base: LanguageModel, params: GridParams, facts: dict[str, Any]) -> dict[str, Any]:
    """The base's notes with one more step of quantisation."""
    step = {"bits": params.bits, "group_size": params.group_size, **facts}
    return base.notes | {"quantize": [*base.notes.get("quantize", []), {params.method: step}]}


def result(
    base: LanguageModel,
    params: GridParams,
    quantized: dict[str, PackedWeight],
    facts: dict[str, Any],
) -> LanguageModel:
    """The changed model with what is known about it.

    Raises RetrofitError when no layer was quantised: a table would show the dense model.
    """
    if not quantized:
        raise RetrofitError(f"{params.method} quantised no layer")
    return replace(base, quantized=quantized, notes=noted(base, params, facts), metrics={})

"""GPTQ: rounding that makes up for itself (Frantar et al., 2210.17323).

Block by block: gather the second moments of what the block's layers receive, round every layer
against them (`column_solver.py`), and hand on the features of the block as rounded, so that later
layers make up for earlier errors too. Layers with the same input share one Hessian and are solved
together, whatever the architecture: which they are is found by running the block once.

*Fidelity.* Follows the published code in the solver and in the propagation of quantised features.
`order: block` gathers all Hessians of a block from its float form, `order: layer` is the published
`true_sequential`. With groups, `act_order` needs `static_groups` here, as formats without a column
permutation do. Forward passes run in `compute_dtype`; second moments and the solver are float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from methods.models.blocks import block_linears, first_block_inputs, run_block
from methods.quantize.calibration import calibration_windows
from methods.quantize.column_solver import factorize, solve
from methods.quantize.features import (
    BATCH,
    InputStatistics,
    check_finite,
    shared_inputs,
    watching,
)
from methods.quantize.grid import Grid
from methods.quantize.targets import result, store, targets
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.export.packed import PackedWeight
    from methods.models.blocks import BlockArguments
    from methods.models.language import LanguageModel
    from methods.quantize.params import GPTQ
    from methods.run.context import Context

SECONDS_BETWEEN_CHECKPOINTS = 20


@torch.no_grad()
def apply(base: LanguageModel, data: dict, params: GPTQ, context: Context) -> LanguageModel:
    """Round every linear layer of every decoder block.

    Raises RetrofitError: base or group size as `targets` says, calibration too short or not
    finite, a Hessian that stays singular (naming the layer).
    """
    blocks = targets(base, params)
    windows = calibration_windows(data, base.tokenizer, context)
    base.model.to(context.device)
    dtype = getattr(torch, params.compute_dtype)
    hidden, arguments = first_block_inputs(base.model, windows)
    hidden = hidden.to(dtype)
    start, losses, quantized, resumed = _resume(context, params)
    if resumed is not None:
        hidden = resumed.to(context.device)
    for index, (name, block) in enumerate(context.progress(blocks, label="gptq")):
        if index < start:
            known = {n: quantized[f"{name}.{n}"] for n in block_linears(block)}
            store(block, known)
            continue
        packed = round_block(name, block, hidden, arguments, params, losses)
        for layer, weight in packed.items():
            quantized[f"{name}.{layer}"] = weight
            context.record(block=index, module=f"{name}.{layer}", loss=losses[f"{name}.{layer}"])
        if index + 1 < len(blocks):
            run_block(block, hidden, arguments, BATCH, dtype, out=hidden)
        if context.checkpoint.every(SECONDS_BETWEEN_CHECKPOINTS):
            _save(context, index + 1, losses, quantized, hidden)
    facts = {"calibration": f"{list(windows.shape)} of {data['calibration'][0].name}"}
    model = result(base, params, quantized, facts)
    mean = sum(losses.values()) / len(losses)
    model.metrics = {"gptq/loss": Metric(mean, n=len(losses), higher_is_better=False)}
    return model


def round_block(
    name: str,
    block: nn.Module,
    hidden: torch.Tensor,
    arguments: BlockArguments,
    params: GPTQ,
    losses: dict[str, float],
) -> dict[str, PackedWeight]:
    """Round the layers of one block in place; adds each layer's loss per token to `losses`.

    hidden: the block's inputs `[n, T, d]` in the type to compute in; they stay as they are.
    """
    linears = block_linears(block)
    sharing = shared_inputs(block, linears, hidden, arguments)
    packed: dict[str, PackedWeight] = {}
    passes = [sharing] if params.order == "block" else [[names] for names in sharing]
    for together in passes:
        statistics = {names[0]: InputStatistics(gram="exact") for names in together}
        with watching([(linears[n], s) for n, s in statistics.items()]):
            run_block(block, hidden, arguments, BATCH, hidden.dtype)
        check_finite(statistics, name)
        for names in together:
            seen = statistics[names[0]]
            rounded = round_layers(name, {n: linears[n] for n in names}, seen, params, losses)
            store(block, rounded)
            packed |= rounded
    return {n: packed[n] for n in linears}


def round_layers(
    name: str,
    layers: dict[str, nn.Linear],
    seen: InputStatistics,
    params: GPTQ,
    losses: dict[str, float],
) -> dict[str, PackedWeight]:
    """Round layers that share their inputs, in one pass over the columns."""
    grid = Grid.of(params)
    hessian = seen.mean_gram.mul_(2)
    first = f"{name}.{next(iter(layers))}"
    try:
        factor = factorize(hessian, params.damping, params.act_order)
        solved = solve(
            torch.cat([layer.weight.float() for layer in layers.values()]),
            factor,
            grid,
            params.block_columns,
            params.static_groups,
            params.range,
            hessian,
        )
    except RetrofitError as error:
        raise RetrofitError(f"gptq, {first}: {error}") from None
    parts = solved.split([layer.out_features for layer in layers.values()])
    for layer, part in zip(layers, parts, strict=True):
        losses[f"{name}.{layer}"] = part.loss
    return {layer: part.packed for layer, part in zip(layers, parts, strict=True)}


def _resume(
    context: Context, params: GPTQ
) -> tuple[int, dict[str, float], dict[str, PackedWeight], torch.Tensor | None]:
    """Blocks done, losses, packed layers and the next block's input, from the checkpoint."""
    from methods.export.packed import PackedWeight

    saved = context.checkpoint.load()
    if saved is None:
        return 0, {}, {}, None
    tensors, losses = saved["tensors"], saved["state"]["losses"]
    packed = {
        layer: PackedWeight(
            *(tensors[f"{part}/{layer}"] for part in ("codes", "scale", "zero")),
            params.bits,
            params.group_size,
            params.symmetric,
        )
        for layer in losses
    }
    return saved["state"]["blocks"], losses, packed, tensors["hidden"]


def _save(
    context: Context,
    blocks: int,
    losses: dict[str, float],
    quantized: dict[str, PackedWeight],
    hidden: torch.Tensor,
) -> None:
    tensors = {"hidden": hidden}
    for layer, packed in quantized.items():
        for part in ("codes", "scale", "zero"):
            tensors[f"{part}/{layer}"] = getattr(packed, part)
    context.checkpoint.save(tensors, {"blocks": blocks, "losses": losses})

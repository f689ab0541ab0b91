"""Round to nearest: the baseline that AWQ and GPTQ are measured against.

*Fidelity.* Min-max grid per group over all linear layers of the decoder blocks, head and embeddings
untouched, as in the papers' baselines; `range: mse` is the option of GPTQ's code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from methods.models.blocks import block_linears
from methods.quantize.grid import Grid, round_to_nearest
from methods.quantize.targets import result, store, targets

if TYPE_CHECKING:
    from methods.models.language import LanguageModel
    from methods.quantize.params import RTN
    from methods.run.context import Context


@torch.no_grad()
def apply(base: LanguageModel, data: dict, params: RTN, context: Context) -> LanguageModel:
    """Round every linear layer of every decoder block. Raises RetrofitError as `targets` does."""
    blocks = targets(base, params)
    grid = Grid.of(params)
    quantized = {}
    for name, block in context.progress(blocks, label=f"rtn, {len(blocks)} blocks"):
        packed = {
            layer: round_to_nearest(linear.weight.float(), grid, params.range)
            for layer, linear in block_linears(block).items()
        }
        store(block, packed)
        quantized |= {f"{name}.{layer}": weight for layer, weight in packed.items()}
    return result(base, params, quantized, {})

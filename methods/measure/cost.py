"""The one cost counter: parameters, non-zeros, multiply-accumulates and bytes of any torch module.

Every figure of cost in a table comes from here, so that two methods are never compared by two ways
of counting. A multiply-accumulate (MAC) is one multiplication with its addition; half a "FLOP".
Counted are matrix products, convolutions and attention products, at their full size (causal
attention is not halved, as papers do not); element-wise work is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Cost:
    """What one forward pass of a module on given inputs costs."""

    parameters: int
    """Each shared tensor once."""
    nonzeros: int
    macs: int
    effective_macs: int
    """MACs left when products with zero weights of linear and convolution layers are skipped."""
    bytes: int
    """Of parameters and persistent buffers, in the dtypes they have."""


def count(module: nn.Module, *inputs: Any, **keywords: Any) -> Cost:
    """Run `module(*inputs, **keywords)` once and count. The module's mode and weights stay as they are.

    Batch size counts: pass one example for the cost of one.
    """
    products, skipped = _macs(module, inputs, keywords)
    return Cost(
        count_parameters(module),
        count_nonzeros(module),
        products,
        products - skipped,
        bytes_of(module),
    )


def count_parameters(module: nn.Module) -> int:
    """Numbers in the parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters())


def count_nonzeros(module: nn.Module) -> int:
    """Parameters that are not zero, shared ones once."""
    return sum(int(torch.count_nonzero(p)) for p in module.parameters())


def bytes_of(module: nn.Module) -> int:
    """Bytes of parameters and persistent buffers, shared ones once."""
    distinct = {tensor.data_ptr(): tensor.nbytes for tensor in module.state_dict().values()}
    return sum(distinct.values())


@torch.no_grad()
def _macs(module: nn.Module, inputs: tuple, keywords: dict) -> tuple[int, int]:
    """(all MACs, MACs with a zero weight)."""
    skipped = 0

    def note(layer: nn.Module, _: tuple, output: torch.Tensor) -> None:
        nonlocal skipped
        weight = layer.weight
        zeros = weight.numel() - int(torch.count_nonzero(weight))
        # Every output number uses one filter (row) of the weight once.
        positions = output.numel() // weight.shape[0]
        skipped += positions * zeros

    handles = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, LAYERS)]
    try:
        with FlopCounterMode(display=False, custom_mapping=_missing()) as counter:
            module(*inputs, **keywords)
    finally:
        for handle in handles:
            handle.remove()
    return counter.get_total_flops() // 2, skipped


def _missing() -> dict[Any, Callable[..., int]]:
    """FLOPs of products that torch's counter leaves out."""

    def matrix_vector(matrix: torch.Size, vector: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * math.prod(matrix)

    def added(_: torch.Size, matrix: torch.Size, *__: Any, **___: Any) -> int:
        return 2 * math.prod(matrix)

    def dot(left: torch.Size, *_: Any, **__: Any) -> int:
        return 2 * math.prod(left)

    def attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
        batch, heads, queries, width = query
        return 2 * batch * heads * queries * key[2] * (width + value[3])

    aten = torch.ops.aten
    return {
        aten.mv: matrix_vector,
        aten.addmv: added,
        aten.dot: dot,
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
    }

"""The decoder blocks of a causal language model, one at a time and at flat memory.

A block-wise method (quantisation, pruning, distillation of attention) needs three things of any
architecture: the blocks in order, what the first one receives, and a way to push features through
one block.  Nothing here knows an architecture by name: the arguments that a model passes to its
blocks (position embeddings, masks, which may differ from block to block as in Gemma) are recorded
from the model's own forward pass.

    hidden, kwargs = first_block_inputs(model, tokens)        # tokens [n, T]
    for name, block in decoder_blocks(model):
        ...                                                   # use hidden, change the block
        hidden = run_block(block, hidden, kwargs)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from methods.study.errors import RetrofitError


def decoder_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """`[(dotted name, block)]` in the order of the forward pass.

    The blocks are the first module list whose length is the number of layers that the model's
    configuration names.  Raises RetrofitError when there is none.
    """
    config = getattr(model, "config", None)
    depth = getattr(config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return [(f"{name}.{index}", block) for index, block in enumerate(module)]
    raise RetrofitError(
        f"{type(model).__name__} has no list of {depth} decoder blocks; "
        "only decoder-only causal language models can be taken block by block"
    )


def block_linears(block: nn.Module) -> dict[str, nn.Linear]:
    """`{name inside the block: linear layer}` in the order of definition."""
    return {name: m for name, m in block.named_modules() if isinstance(m, nn.Linear)}


@dataclass
class BlockArguments:
    """The keyword arguments with which a model calls each of its blocks, for one sequence.

    Tensors have batch size 1 and broadcast over any number of sequences of the same length.
    """

    by_index: list[dict[str, Any]] = field(default_factory=list)
    _blocks: list[nn.Module] = field(default_factory=list, repr=False)

    def of(self, block: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Any]:
        """The arguments of `block` (or of a copy of it), floating tensors in `dtype`.

        Raises RetrofitError for a block of another model.
        """
        for index, known in enumerate(self._blocks):
            if known is block:
                return _cast(self.by_index[index], dtype)
        # A copy of a block still says which layer it is.
        for module in block.modules():
            index = getattr(module, "layer_idx", None)
            if isinstance(index, int) and index < len(self.by_index):
                return _cast(self.by_index[index], dtype)
        if all(arguments is self.by_index[0] for arguments in self.by_index):
            return _cast(self.by_index[0], dtype)
        raise RetrofitError(f"no recorded arguments for this {type(block).__name__}")


def _cast(value: Any, dtype: torch.dtype | None) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _cast(child, dtype) for key, child in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(child, dtype) for child in value)
    return value


@contextmanager
def _recording(blocks: list[nn.Module]) -> Iterator[tuple[list, list]]:
    """Blocks that note what they are called with and hand their input through, uncomputed."""
    entered: list[torch.Tensor] = []
    arguments: list[dict[str, Any]] = []

    def recorder(index: int):
        def forward(hidden_states: torch.Tensor, *rest: Any, **kwargs: Any) -> torch.Tensor:
            if rest:
                raise RetrofitError("decoder blocks that take positional arguments are unsupported")
            if index == 0:
                entered.append(hidden_states.detach())
            arguments.append(kwargs)
            return hidden_states

        return forward

    for index, block in enumerate(blocks):
        block.forward = recorder(index)
    try:
        yield entered, arguments
    finally:
        for block in blocks:
            del block.forward  # uncovers the method of the class


@torch.no_grad()
def first_block_inputs(
    model: nn.Module, tokens: torch.Tensor, batch: int = 8
) -> tuple[torch.Tensor, BlockArguments]:
    """What enters the first decoder block for `tokens` `[n, T]` (int64, no padding).

    Returns features `[n, T, d]` in the model's dtype on the model's device, and the arguments for
    every block.  No block computes anything, so this costs an embedding look-up.
    """
    if tokens.ndim != 2 or not tokens.shape[0]:
        raise RetrofitError(f"tokens must be [n, T] with n > 0, found {tuple(tokens.shape)}")
    blocks = [block for _, block in decoder_blocks(model)]
    backbone = model.get_decoder() if hasattr(model, "get_decoder") else model
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        with _recording(blocks) as (entered, arguments):
            backbone(input_ids=tokens[:1].to(device), use_cache=False)
            recorded = arguments[: len(blocks)]
            entered.clear()
            for part in tokens.split(batch):
                backbone(input_ids=part.to(device), use_cache=False)
            hidden = torch.cat(entered)
    finally:
        model.train(training)
    return hidden, BlockArguments(recorded, blocks)


@contextmanager
def in_dtype(module: nn.Module, dtype: torch.dtype | None) -> Iterator[nn.Module]:
    """`module` computing in `dtype` inside the `with`, its own tensors back untouched after it.

    Unlike a cast copy, hooks on the module keep working, and the exact weights return. Buffers stay:
    rotary frequencies in bfloat16 would move distant positions, and transformers keeps them in
    float32 as well.
    """
    changed = [
        t
        for t in module.parameters()
        if dtype is not None and t.is_floating_point() and t.dtype != dtype
    ]
    kept = [t.data for t in changed]
    try:
        for tensor in changed:
            tensor.data = tensor.data.to(dtype)
        yield module
    finally:
        for tensor, data in zip(changed, kept, strict=True):
            tensor.data = data


@torch.no_grad()
def run_block(
    block: nn.Module,
    hidden: torch.Tensor,
    kwargs: BlockArguments,
    batch: int = 4,
    dtype: torch.dtype | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The block's output `[n, T, d]` for features `hidden` `[n, T, d]`, `batch` sequences at a time.

    dtype: what to compute in, and of the result; None keeps the dtype of the block.
    out: where to write; `out=hidden` saves the second buffer when shapes and dtypes agree.
    """
    work = dtype or next((p.dtype for p in block.parameters()), hidden.dtype)
    arguments = kwargs.of(block, work)
    if out is None:
        out = torch.empty(hidden.shape, dtype=work, device=hidden.device)
    with in_dtype(block, dtype):
        for start in range(0, hidden.shape[0], batch):
            part = block(hidden[start : start + batch].to(work), **arguments)
            # Blocks of older or custom architectures return a tuple; [0] of a tensor would
            # silently keep the first sequence only.
            out[start : start + batch] = part[0] if isinstance(part, tuple) else part
    return out

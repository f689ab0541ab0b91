"""A network as blocks that run one after another, whatever it is a network of.

What a block-wise method needs of a model: the blocks in order, what the first one receives, and a
way to run one with other weights, with gradients. A causal language model gives its decoder blocks;
a vision network gives the modules that its `blocks()` lists, whose composition is its forward pass.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from methods.models.blocks import BlockArguments, decoder_blocks, first_block_inputs
from methods.study.errors import RetrofitError


class Chain(Protocol):
    """blocks: `[(dotted name, module)]`. inputs: what enters the first, `[n, …]`."""

    blocks: list[tuple[str, nn.Module]]
    inputs: Tensor

    def run(self, block: nn.Module, x: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """The block's output for `x` `[b, …]`, with `weights` (by name inside the block) in place of
        its own.
        """
        ...


class TextChain:
    """The decoder blocks of a causal language model, for tokens `[n, T]`."""

    def __init__(self, model: nn.Module, tokens: Tensor, dtype: torch.dtype):
        self.blocks = decoder_blocks(model)
        hidden, self._arguments = first_block_inputs(model, tokens)
        self.inputs = hidden.to(dtype)
        self._dtype = dtype

    def run(self, block: nn.Module, x: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """See `Chain`."""
        arguments = self._arguments.of(block, self._dtype)
        out = functional_call(block, weights or {}, (x,), arguments)
        return out[0] if isinstance(out, tuple) else out

    @property
    def arguments(self) -> BlockArguments:
        """What the model passes to its blocks."""
        return self._arguments


class ImageChain:
    """The blocks of a vision network, for standardised images `[n, c, h, w]`."""

    def __init__(self, module: nn.Module, images: Tensor):
        blocks: Any = getattr(module, "blocks", None)
        if not callable(blocks):
            raise RetrofitError(f"{type(module).__name__} does not say which blocks it is made of")
        self.blocks = blocks()
        self.inputs = images

    def run(self, block: nn.Module, x: Tensor, weights: dict[str, Tensor] | None = None) -> Tensor:
        """See `Chain`."""
        return functional_call(block, weights or {}, (x,))

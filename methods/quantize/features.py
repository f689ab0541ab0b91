"""What a decoder block's layers see: gathered while the block runs, and never more than one block.

Statistics are accumulated batch by batch; of the features themselves only samples are kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from methods.models.blocks import run_block
from methods.quantize.output_error import second_moment
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.models.blocks import BlockArguments

BATCH = 4
"""Sequences that pass through a block at once."""


@dataclass
class InputStatistics:
    """Of the inputs `[…, in]` of one layer: count, mean |x|, second moment, and a sample of rows.

    gram: whether to accumulate sum x x^T, from products of float32 numbers ("exact") or of the
    features' own type ("fast"). every: keep one row in so many; None keeps none.
    """

    gram: Literal["exact", "fast"] | None = None
    every: int | None = None
    tokens: int = 0
    absolute: torch.Tensor | None = None
    moment: torch.Tensor | None = None
    _rows: list[torch.Tensor] = field(default_factory=list)

    def add(self, x: torch.Tensor) -> None:
        """Take in the inputs of one batch."""
        x = x.detach().flatten(0, -2)
        absolute = x.abs().sum(0, dtype=torch.float32)
        self.absolute = absolute if self.absolute is None else self.absolute + absolute
        if self.gram:
            moment = second_moment(x.float() if self.gram == "exact" else x)
            self.moment = moment if self.moment is None else self.moment.add_(moment)
        if self.every:
            first = -self.tokens % self.every
            self._rows.append(x[first :: self.every].clone())
        self.tokens += x.shape[0]

    @property
    def magnitude(self) -> torch.Tensor:
        """Mean |x| of every channel, float32 `[in]`."""
        return self.absolute / self.tokens

    @property
    def mean_gram(self) -> torch.Tensor:
        """X^T X / n, float32 `[in, in]`."""
        return self.moment / self.tokens

    def rows(self, wanted: int | None = None) -> torch.Tensor:
        """`wanted` of the sampled rows, evenly spread; fewer where there are fewer; None: all."""
        rows = torch.cat(self._rows)
        if wanted is None or wanted >= len(rows):
            return rows
        return rows[torch.arange(wanted, device=rows.device) * len(rows) // wanted]


@dataclass
class Calls:
    """The first `sequences` sequences that a module was called with, as `(args, kwargs)`."""

    sequences: int
    calls: list[tuple[tuple, dict[str, Any]]] = field(default_factory=list)
    taken: int = 0

    def add(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Keep what of one call is still wanted."""
        take = min(_first(args, kwargs).shape[0], self.sequences - self.taken)
        if take > 0:
            self.calls.append(_sequences(args, kwargs, take))
            self.taken += take

    def part(self, tokens: int | None) -> list[tuple[tuple, dict[str, Any]]]:
        """The first sequences that have `tokens` tokens together, at least one; None: all."""
        if tokens is None:
            return self.calls
        args, kwargs = self.calls[0]
        sequences, length = _first(args, kwargs).shape[:2]
        return [_sequences(args, kwargs, min(sequences, -(-tokens // length)))]


def _first(args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
    return next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))


def _sequences(args: tuple, kwargs: dict[str, Any], take: int) -> tuple[tuple, dict[str, Any]]:
    """A copy of a call with its first `take` sequences."""
    batch = _first(args, kwargs).shape[0]

    def part(value: Any) -> Any:
        # Tensors of batch size 1 (positions, masks) serve every sequence.
        if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == batch > 1:
            return value[:take].clone()
        return value.clone() if isinstance(value, torch.Tensor) else value

    return tuple(map(part, args)), {name: part(value) for name, value in kwargs.items()}


@contextmanager
def watching(
    inputs: Iterable[tuple[nn.Module, InputStatistics]],
    calls: Iterable[tuple[nn.Module, Calls]] = (),
):
    """Inside the `with`, every call of the modules is noted."""
    with ExitStack() as stack:
        for module, statistics in inputs:
            hook = module.register_forward_pre_hook(lambda _, args, s=statistics: s.add(args[0]))
            stack.callback(hook.remove)
        for module, kept in calls:
            hook = module.register_forward_pre_hook(
                lambda _, args, kwargs, k=kept: k.add(args, kwargs), with_kwargs=True
            )
            stack.callback(hook.remove)
        yield


@torch.no_grad()
def shared_inputs(
    block: nn.Module, linears: dict[str, nn.Linear], hidden: torch.Tensor, arguments: BlockArguments
) -> list[list[str]]:
    """Names of the layers that are given one and the same tensor, in the order of their calls.

    Found by running one short sequence, so it needs no knowledge of the architecture.
    Raises RetrofitError for a layer that the block never calls.
    """
    seen: list[tuple[torch.Tensor, list[str]]] = []

    def note(name: str):
        def hook(_: nn.Module, args: tuple) -> None:
            for tensor, names in seen:
                if tensor is args[0]:
                    names.append(name)
                    return
            seen.append((args[0], [name]))  # keeps the tensor, so its identity is not reused

        return hook

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in linears.items()]
    try:
        run_block(block, hidden[:1], arguments)
    finally:
        for hook in hooks:
            hook.remove()
    called = [name for _, names in seen for name in names]
    missing = sorted(set(linears) - set(called))
    if missing:
        raise RetrofitError(f"{missing[0]} of {type(block).__name__} is never called")
    return [names for _, names in seen]


def check_finite(statistics: dict[str, InputStatistics], block: str) -> None:
    """Refuse NaN or infinity in what the layers of a block saw.

    Raises RetrofitError naming the first layer, in the order of `statistics`.
    """
    for name, seen in statistics.items():
        if not torch.isfinite(seen.absolute).all():
            raise RetrofitError(
                f"calibration: the input of {block}.{name} is not finite "
                "(NaN or infinity in the weights before it or in its features)"
            )

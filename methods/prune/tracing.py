"""Which layers a network has, in the order in which it runs, and how often each uses its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.study.errors import RetrofitError

Example = Tensor | tuple | Mapping[str, Any]
"""An input of the network: a tensor, a tuple of arguments or a mapping of keyword arguments."""
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ENTRANCES = (*LAYERS, nn.Embedding, nn.EmbeddingBag)


@dataclass
class Call:
    """A layer with weights as it was met: positions are products with its whole weight in one pass."""

    name: str
    layer: nn.Module
    positions: int = 0
    first: bool = False
    last: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one pass with all weights."""
        return self.positions * self.layer.weight.numel()


def arguments(example: Example) -> tuple[tuple, dict[str, Any]]:
    """(positional, keyword) arguments that an example stands for."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The whole model in evaluation mode and without gradients inside; its modes back after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def trace(model: nn.Module, example: Example) -> list[Call]:
    """Linear and convolution layers in the order of their first use.

    ``first`` is the layer that runs before all others (none, where an embedding does), ``last`` the
    one that runs last and any whose output is an output of the network. Layers that the example never
    reaches come at the end, with 0 positions. Raises RetrofitError where no layer was met.
    """
    met: dict[str, Call] = {}
    gave: dict[int, tuple[Tensor, str]] = {}
    order: list[str] = []

    def note(name: str):
        def hook(layer: nn.Module, _: tuple, output: Any) -> None:
            order.append(name)
            if isinstance(layer, LAYERS):
                call = met.setdefault(name, Call(name, layer))
                call.positions += output.numel() // layer.weight.shape[0]
                gave[id(output)] = (output, name)  # keeps the tensor, so its identity is not reused

        return hook

    entrances = {n: m for n, m in model.named_modules() if isinstance(m, ENTRANCES)}
    hooks = [layer.register_forward_hook(note(name)) for name, layer in entrances.items()]
    positional, keywords = arguments(example)
    try:
        with evaluating(model):
            output = model(*positional, **keywords)
    finally:
        for hook in hooks:
            hook.remove()
    if not met:
        raise RetrofitError(f"{type(model).__name__} has no linear or convolution layer")
    if order[0] in met:
        met[order[0]].first = True
    list(met.values())[-1].last = True
    for tensor in _tensors(output):
        if id(tensor) in gave:
            met[gave[id(tensor)][1]].last = True
    # A fused kernel may use weights without calling their layer.
    unseen = [Call(n, m) for n, m in entrances.items() if isinstance(m, LAYERS) and n not in met]
    return [*met.values(), *unseen]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for child in value.values():
            yield from _tensors(child)
    elif isinstance(value, (tuple, list)):
        for child in value:
            yield from _tensors(child)

"""What a search step costs: bytes kept for the backward pass, parameters, MACs, seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.measure.cost import count


def saved_bytes(loss: Callable[[], Tensor], module: nn.Module) -> int:
    """Bytes that autograd keeps from the forward pass for the backward pass.

    Each storage once, and parameters and buffers not at all: they are there in any case.
    """
    resident = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in resident:
            kept[storage.data_ptr()] = storage  # held, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = loss()
    total = sum(storage.nbytes() for storage in kept.values())
    del value
    return total


def seconds(step: Callable[[], object], repeats: int = 5) -> float:
    """Median of several runs, after one that is not counted."""
    step()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def macs(module: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one forward pass, in evaluation mode."""
    training = module.training
    module.eval()
    found = count(_Opaque(module), example).macs
    module.train(training)
    return found


class _Opaque(nn.Module):
    """A module whose layers the cost counter does not look into: those of a super-network with
    separate options have no one weight in which to count zeros.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self._call = lambda x: module(x)

    def forward(self, x: Tensor) -> Tensor:
        """The module's."""
        return self._call(x)

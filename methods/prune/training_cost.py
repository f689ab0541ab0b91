"""FLOPs and memory of sparse training.

A step costs three forward passes per sample: forward, gradient of features, gradient of weights. A
RigL step at which masks move needs the gradient of all weights, so its third part is that of the
network without masks. (The published helper spreads this over every + 1 steps; here steps are
counted.) Gradual pruning costs what its masks leave at each step. FLOPs are of one sample; sparse and
dense are those of a forward pass with masks (at their goal) and without.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from methods.prune.sparse_training import MASK, Update, moves
from methods.prune.tracing import Example, arguments


def published_per_step(sparse: float, dense: float, every: int) -> float:
    """(3 f_s every + 2 f_s + f_d) / (every + 1): a RigL step while masks move, as published."""
    return (3 * sparse * every + 2 * sparse + dense) / (every + 1)


def training_flops(
    steps: int,
    update: Update,
    every: int,
    begin: float,
    end: float,
    sparse: float,
    dense: float,
) -> float:
    """FLOPs of ``steps`` steps for one sample in each; the arguments are `SparseTraining`'s."""
    first, last = int(begin * steps), int(end * steps)
    if update == "gradual":
        times = torch.arange(1, steps + 1)
        due = [t for t in range(first, last + 1) if moves(t, update, every, first, last)]
        # Step t is made with the masks of the last move before it.
        known = torch.bucketize(times, torch.tensor([*due, steps + 1])) - 1
        at = torch.tensor([*due, 0.0])[known]
        passed = ((at - first) / max(1, last - first)).clamp(0, 1)
        passed = torch.where(at >= last, 1.0, passed)
        left = torch.where(known >= 0, (1 - passed) ** 3, 1.0)
        return float(3 * (sparse + (dense - sparse) * left).double().sum())
    moved = sum(moves(t, update, every, first, last) for t in range(1, steps + 1))
    return 3 * sparse * steps + (moved * (dense - sparse) if update == "rigl" else 0)


def steps_within(budget: float, **schedule) -> int:
    """The largest number of steps whose training FLOPs do not exceed the budget (at least 1)."""
    low, high = 1, 2
    while training_flops(high, **schedule) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if training_flops(middle, **schedule) <= budget:
            low = middle
        else:
            high = middle
    return low


def training_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, gradients, optimiser state and masks, as this simulation holds them."""
    weights = sum(p.nbytes for p in model.parameters())
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    moments = sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
    masks = sum(b.nbytes for name, b in model.named_buffers() if name.rpartition(".")[2] == MASK)
    return weights + gradients + moments + masks


def sparse_training_bytes(nonzeros: int, masked: int, moments: int) -> int:
    """Bytes that a sparse implementation would hold: float32 weight, gradient and moments of every
    non-zero, and an int32 place of each of the ``masked`` layers' non-zeros.
    """
    return nonzeros * 4 * (2 + moments) + masked * 4


def activation_bytes(model: nn.Module, examples: Example, samples: int) -> int:
    """Bytes of features kept for the backward pass, for one of ``samples``; weights are not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    positional, keywords = arguments(examples)
    buffers = [(b, b.clone()) for b in model.buffers()]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.enable_grad():
        model(*positional, **keywords)
    for buffer, value in buffers:  # running statistics as they were
        buffer.copy_(value)
    return sum(size for size, _ in kept.values()) // samples

"""Many networks trained side by side by SGD with momentum, and looked at on fixed inputs on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.dynamics.rich_lazy import measures
from methods.dynamics.rich_lazy.network import Weights, losses, outputs, states
from methods.study.errors import RetrofitError

SLICE_BYTES = 128_000_000
"""Networks are looked at so many at a time that their states take no more."""


class Ensemble:
    """M networks with momenta; `step` is one update of each on its own batch.

    Fidelity: v <- m v + gradient, w <- w - lr v, as torch.optim.SGD and so the published code; gradients of the sum
    over networks are each network's own.
    """

    def __init__(self, weights: Weights, alpha: float, learning_rate: float, momentum: float):
        self.weights = Weights(*(w.clone().requires_grad_() for w in weights.tensors()))
        self.momenta = [torch.zeros_like(w) for w in weights.tensors()]
        self.alpha, self.learning_rate, self.momentum = alpha, learning_rate, momentum

    def step(self, x: Tensor, labels: Tensor) -> None:
        """x [M, T, batch, inputs], labels int64 [M, read, batch]."""
        leaves = self.weights.tensors()
        loss = losses(self.weights, states(self.weights, x, self.alpha), labels).sum()
        gradients = torch.autograd.grad(loss, leaves)
        with torch.no_grad():
            torch._foreach_mul_(self.momenta, self.momentum)
            torch._foreach_add_(self.momenta, gradients)
            torch._foreach_add_(leaves, self.momenta, alpha=-self.learning_rate)

    def now(self) -> Weights:
        """The weights at this moment; shares memory."""
        return Weights(*(w.detach() for w in self.weights.tensors()))


@dataclass(frozen=True)
class Probe:
    """Fixed inputs x [R, T, samples, inputs], labels [R, read, samples]; `arms` networks for each replicate."""

    x: Tensor
    labels: Tensor
    arms: int

    def slices(self, size: int) -> list[slice]:
        """Networks to look at together."""
        _, steps, samples, inputs = self.x.shape
        each = 4 * 3 * steps * samples * (size + inputs)
        count, members = max(1, SLICE_BYTES // each), self.arms * len(self.x)
        return [slice(start, min(start + count, members)) for start in range(0, members, count)]

    def part(self, members: slice) -> tuple[Tensor, Tensor]:
        """Inputs and labels of some networks."""
        owner = torch.arange(members.start, members.stop, device=self.x.device) // self.arms
        return self.x[owner], self.labels[owner]


@dataclass(frozen=True)
class Look:
    """What a look finds, each [M]: losses, share of right choices in the last step, and change since the start."""

    loss: Tensor
    accuracy: Tensor
    weight_change: Tensor
    representation_alignment: Tensor
    sign_similarity: Tensor
    silent: Tensor
    """1 where no unit is active in the last step, else 0."""


@torch.no_grad()
def look(start: Weights, now: Weights, probe: Probe, alpha: float) -> Look:
    """All of `Look`, some networks at a time."""
    found: list[tuple[Tensor, ...]] = []
    for members in probe.slices(now.w_h.shape[1]):
        before, after = start.part(members), now.part(members)
        x, labels = probe.part(members)
        h0, h = states(before, x, alpha), states(after, x, alpha)
        choice = outputs(after, h[:, -1:]).argmax(-1)[:, 0]
        found.append(
            (
                losses(after, h, labels).double(),
                (choice == labels[:, -1]).double().mean(1),
                measures.weight_change(before.w_h, after.w_h),
                measures.representation_alignment(h0[:, -1], h[:, -1]),
                measures.sign_similarity(h0, h),
                measures.silent(h[:, -1]).double(),
            )
        )
    return Look(*(torch.cat(parts) for parts in zip(*found, strict=True)))


@dataclass
class Matched:
    """Copies of the weights at the first look at which each network's loss is at most `target`."""

    target: float | None
    weights: Weights
    step: Tensor
    """int64 [M], 0 where the loss has not come down so far."""

    @classmethod
    def none(cls, weights: Weights, target: float | None) -> Matched:
        """Before training."""
        copies = Weights(*(w.clone() for w in weights.tensors()))
        return cls(target, copies, torch.zeros(len(weights.w_h), dtype=torch.int64))

    def update(self, step: int, loss: Tensor, now: Weights) -> None:
        """Keep what has just come down."""
        if self.target is None:
            return
        fresh = (loss.cpu() <= self.target) & (self.step == 0)
        self.step[fresh] = step
        for copy, w in zip(self.weights.tensors(), now.tensors(), strict=True):
            copy[fresh] = w[fresh]


@dataclass
class Course:
    """The looks of a chunk of networks: steps, and for each measure one [M] a look."""

    steps: list[int] = field(default_factory=list)
    loss: list[list[float]] = field(default_factory=list)
    weight_change: list[list[float]] = field(default_factory=list)
    representation_alignment: list[list[float]] = field(default_factory=list)

    def add(self, step: int, seen: Look, names: list[str]) -> None:
        """Append a look.  Raises RetrofitError naming the first network whose loss is no longer finite."""
        broken = (~torch.isfinite(seen.loss)).nonzero().flatten().tolist()
        if broken:
            raise RetrofitError(
                f"{names[broken[0]]}: the loss is not finite after {step} updates; "
                "a smaller learning_rate or gain keeps it so"
            )
        self.steps.append(step)
        for name in ("loss", "weight_change", "representation_alignment"):
            getattr(self, name).append(getattr(seen, name).tolist())

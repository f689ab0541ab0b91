"""The one training loop.

The loss is a function of the update number: with :class:`methods.fit.batches.Batches` it finds its
batch, and any random draw, from (seed, step) alone. So a run that was killed continues from its
checkpoint to the same bits: network, optimiser, the default random state (dropout), and whatever
else is handed in as ``keeping``. (The checkpoint itself keeps the history of the run.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from methods.fit.checkpoints import pack, unpack
from methods.fit.early_stop import EarlyStop
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from methods.run.context import Context

CHECKPOINT_SECONDS = 20.0
"""How much work a kill may cost."""


class Stateful(Protocol):
    """Something besides network and optimiser that must survive a kill."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON)."""
        ...

    def restore_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` gave."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How training ended: updates done, last loss, whether it stopped early."""

    steps: int
    loss: float
    stopped_early: bool = False


def fit(
    network: nn.Module,
    loss: Callable[[nn.Module, int], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    context: Context,
    learning_rate: Callable[[int], float] | None = None,
    clip_norm: float | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
    steps_per_epoch: int | None = None,
    before_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[int, Tensor], None] | None = None,
    after_epoch: Callable[[int], float | None] | None = None,
    early_stop: EarlyStop | None = None,
    keeping: Mapping[str, Stateful] | None = None,
    accelerator: Accelerator | None = None,
    label: str = "training",
) -> Outcome:
    """Make ``steps`` updates of ``network``, in place.

    loss: (network, step) to a scalar; the network handed over is the one to call (it is wrapped
        in a distributed run). It runs under autocast where ``precision`` is bfloat16.
    learning_rate: step to the rate of every parameter group (times the group's ``scale``, if it
        has one); None leaves the optimiser's rates alone.
    clip_norm: bound on the global L2 norm of the gradient.
    before_epoch, after_epoch: called with the epoch's number (0, 1, …); ``after_epoch`` returns
        the validation score that ``early_stop`` judges. The network is in training mode again
        after each call.
    after_step: called with the number of updates done (1, 2, …) and the detached loss.
    keeping: further objects with state, by name; ``early_stop`` is always kept.
    accelerator: ``accelerate.Accelerator()`` for several processes; each computes the loss on
        its own shard (``Batches.shard``) and the first one records and saves.

    Raises RetrofitError when the loss is no longer finite, with the step at which that happened.
    """
    kept: dict[str, Stateful] = dict(keeping or {})
    if early_stop is not None:
        kept["early_stop"] = early_stop
    first = accelerator is None or accelerator.is_main_process
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    called = network
    if accelerator is not None:
        called, optimizer = accelerator.prepare(network, optimizer)
    autocast = (
        torch.autocast(context.device.split(":")[0], torch.bfloat16)
        if precision == "bfloat16"
        else nullcontext()
    )
    epoch_length = steps_per_epoch or steps
    value, stopped = torch.tensor(math.nan), False
    with _own_randomness(context):
        start = _resume(network, optimizer, kept, context)
        network.train()
        step = start
        for step in context.progress(range(start, steps), total=steps - start, label=label):
            epoch, position = divmod(step, epoch_length)
            if position == 0 and before_epoch is not None:
                before_epoch(epoch)
            if learning_rate is not None:
                rate = learning_rate(step)
                for group in optimizer.param_groups:
                    group["lr"] = rate * group.get("scale", 1.0)
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                value = loss(called, step)
            if accelerator is None:
                value.backward()
            else:
                accelerator.backward(value)
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
            optimizer.step()
            value = value.detach()
            if after_step is not None:
                after_step(step + 1, value)
            if position == epoch_length - 1 or step == steps - 1:
                _check_finite(value, step, context)
                score = after_epoch(epoch) if after_epoch is not None else None
                network.train()
                if early_stop is not None and score is not None:
                    stopped = early_stop.update(score, epoch, network)
            if stopped:
                break
            if first and context.checkpoint.every(CHECKPOINT_SECONDS):
                context.checkpoint.save(*pack(network, optimizer, kept, context, step + 1))
    if early_stop is not None:
        early_stop.finish(network)
    done = step + 1 if steps > start else start
    return Outcome(done, float(value), stopped)


def _check_finite(loss: Tensor, step: int, context: Context) -> None:
    if not torch.isfinite(loss):
        raise RetrofitError(
            f"{context.label}: the loss is {float(loss)} at update {step + 1}; lower the learning "
            "rate or the gradient clipping norm"
        )


def _resume(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: Mapping[str, Stateful],
    context: Context,
) -> int:
    saved = context.checkpoint.load()
    if saved is None:
        return 0
    start = unpack(saved, network, optimizer, kept, context)
    context.log.info("%s: continues after update %d", context.label, start)
    return start


class _own_randomness:  # noqa: N801 - reads as the context manager that it is
    """The default generators seeded for this run inside, and as they were outside."""

    def __init__(self, context: Context):
        cuda = context.device.startswith("cuda")
        self._fork = torch.random.fork_rng(devices=[context.device] if cuda else [])
        self._seed = context.seed_for("default generator during training")

    def __enter__(self) -> None:
        self._fork.__enter__()
        torch.manual_seed(self._seed)

    def __exit__(self, *error: object) -> None:
        self._fork.__exit__(*error)

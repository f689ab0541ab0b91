"""One task: a method's parameters trained by the one training loop, then measured on test texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.adapt.prompt_tuning.attachment import Attached
from methods.adapt.prompt_tuning.params import TextFineTune, TextTuning
from methods.adapt.prompt_tuning.tasks import Labelled, Task, divided
from methods.fit.batches import Batches
from methods.fit.causal_lm import Trained, frozen_in
from methods.fit.early_stop import EarlyStop
from methods.fit.loop import fit
from methods.fit.schedules import warm_up

if TYPE_CHECKING:
    from methods.run.context import Context

ROWS = 50
"""About so many rows of the history have the loss."""
SCORED = 64
"""Texts that are scored at once."""


class TextClassifier(nn.Module):
    """A backbone with its readout: scores [b, C] of texts."""

    def __init__(self, attached: Attached, readout: nn.Module):
        super().__init__()
        self.backbone, self.readout, self.prefix = attached.backbone, readout, attached.prefix

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """batch: `input_ids` and `attention_mask`, int64 [b, s']."""
        return self.readout(self.backbone, batch, self.prefix)

    @torch.no_grad()
    def scores(self, texts: Labelled, device: str = "cpu") -> Tensor:
        """float32 [n, C] of all texts, in their order; batches hold texts of like length."""
        self.eval()
        order = texts.tokens.lengths.argsort(stable=True)
        found = [self(on(texts, rows, device)).cpu() for rows in order.split(SCORED)]
        scores = torch.cat(found)
        return torch.empty_like(scores).index_copy_(0, order, scores)


def on(texts: Labelled, rows: Tensor, device: str) -> dict[str, Tensor]:
    """A batch without token types: peft's prompts do not take them, so no method here does."""
    batch = texts.tokens.batch(rows)
    return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}


def factor(step: int, steps: int, rising: int) -> float:
    """What the rates are multiplied by at update `step`: up over `rising` updates, then linearly to zero."""
    if step < rising:
        return warm_up(step, rising)
    return (steps - step) / max(1, steps - rising)


class Clock:
    """Seconds of this process, without what is spent in `paused`; goes on after a kill (see `fit.loop.Stateful`)."""

    def __init__(self) -> None:
        self._before, self._start = 0.0, time.process_time()

    @property
    def seconds(self) -> float:
        """Up to now."""
        return self._before + time.process_time() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        start = time.process_time()
        yield
        self._before -= time.process_time() - start

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For the checkpoint."""
        return {}, {"seconds": self.seconds}

    def restore_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._before, self._start = state["seconds"], time.process_time()


@contextmanager
def computing(classifier: TextClassifier, attached: Attached, params: TextTuning) -> Iterator[None]:
    """Frozen weights in the params' `compute_dtype` inside the `with`, and what is trained in float32.

    Where everything is trained, nothing is cast and torch's autocast does the same for the products.
    """
    dtype = getattr(torch, params.compute_dtype)
    device = next(classifier.parameters()).device.type
    own = {id(p) for group in attached.groups for p in group["params"]}
    own |= {id(p) for p in classifier.readout.parameters()}
    names = {name for name, p in classifier.named_parameters() if id(p) in own}
    whole = isinstance(params, TextFineTune)
    before = attached.model.config._attn_implementation
    # On a processor the backward pass of the other attention kernels is several times slower.
    attached.model.set_attn_implementation("eager")
    try:
        with (
            torch.autocast(device, torch.bfloat16, enabled=whole and dtype != torch.float32),
            nullcontext() if whole else frozen_in(classifier, dtype, names),
        ):
            yield
    finally:
        attached.model.set_attn_implementation(before)


@dataclass(frozen=True)
class Tuned:
    """Seconds of training, and the held-out accuracy of the state that was kept, where it was taken."""

    seconds: float
    validation: float | None


def train(
    classifier: TextClassifier,
    attached: Attached,
    task: Task,
    params: TextTuning,
    context: Context,
) -> Tuned:
    """Train what the method added, and the readout where it has parameters, in place; call it inside `computing`.

    The history gets rows of (task, step, loss) and of (task, step, validation_accuracy). A run that was killed
    continues from its checkpoint to the same bits. No dropout acts anywhere.
    """
    trained, held = divided(task, params.validation, context.seed_for(f"held out {task.name}"))
    head = list(classifier.readout.parameters())
    groups = list(attached.groups)
    groups += [{"params": head, "lr": params.head_learning_rate}] if head else []
    if not groups:
        return Tuned(0.0, None)
    groups = [{**group, "scale": group["lr"]} for group in groups]
    size = min(params.batch, len(trained))
    batches = Batches(len(trained), size, context.seed_for(f"batches {task.name}"))
    keeper = EarlyStop(params.evaluations + 1) if params.evaluations else None
    clock = Clock()

    def loss(module: Trained, step: int) -> Tensor:
        rows = batches.indices(step)
        scores = module.model(on(trained, rows, context.device))
        return cross_entropy(scores, trained.y[rows].to(scores.device))

    fit(
        Trained(classifier.eval()),
        loss,
        torch.optim.AdamW(groups, weight_decay=0.0, fused=True),
        steps=params.steps,
        context=context,
        learning_rate=lambda step: factor(step, params.steps, params.warm_up),
        steps_per_epoch=-(-params.steps // params.evaluations) if params.evaluations else None,
        after_step=_losses(task.name, params.steps, context),
        after_epoch=_held_out(classifier, held, task.name, params, context, clock),
        early_stop=keeper,
        keeping={"clock": clock},
        label=task.name,
    )
    return Tuned(clock.seconds, keeper.best if keeper else None)


def _losses(task: str, steps: int, context: Context) -> Callable[[int, Tensor], None]:
    every = max(1, steps // ROWS)

    def after_step(step: int, loss: Tensor) -> None:
        if step % every == 0 or step == steps:
            context.record(task=task, step=step, loss=float(loss))

    return after_step


def _held_out(
    classifier: TextClassifier,
    held: Labelled,
    task: str,
    params: TextTuning,
    context: Context,
    clock: Clock,
) -> Callable[[int], float | None] | None:
    """For `fit(after_epoch=…)`: held-out accuracy; the seconds that it takes are no training seconds."""
    if not params.evaluations:
        return None
    every = -(-params.steps // params.evaluations)

    def after_epoch(epoch: int) -> float:
        with clock.paused():
            found = accuracy(classifier.scores(held, context.device), held.y)
        step = min((epoch + 1) * every, params.steps)
        context.record(task=task, step=step, validation_accuracy=found)
        return found

    return after_epoch


def accuracy(scores: Tensor, y: Tensor) -> float:
    """Share of texts whose class has the highest score."""
    return float((scores.argmax(1) == y).double().mean())

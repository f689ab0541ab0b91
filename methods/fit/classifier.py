"""Training a vision network on labelled images, made of the one training loop.

*Fidelity.* No paper: the usual recipe for small transformers. Cross-entropy, perhaps with smoothed
labels; AdamW whose decay acts on matrices and filters but not on biases, norms, tokens and positions;
a linear warm-up and then half a cosine down to a hundredth of the rate; a bounded gradient. Each epoch
is a fresh permutation; what does not fill a batch is left out of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.fit.batches import Batches, as_batch_first, shift_and_flip, standardise, stream
from methods.fit.history import accuracy_rows, loss_rows
from methods.fit.loop import fit
from methods.fit.schedules import cosine, warm_up

if TYPE_CHECKING:
    from methods.data.kinds import Images
    from methods.fit.params import ClassifierTraining
    from methods.models.networks.network import Network
    from methods.run.context import Context

FLOOR = 0.01
"""The last learning rate as a share of the highest."""


def train(
    network: Network,
    images: Images,
    training: ClassifierTraining,
    context: Context,
    validation: Images | None = None,
) -> int:
    """Train all weights of the network, in place, and leave it in evaluation mode; how many updates.

    images, validation: uint8 [n, h, w] or [n, h, w, c], standardised by the network's own mean and
        deviation. The history gets rows of (step, loss, rate) and, with ``validation``, of
        (step, epoch, validation_accuracy).
    A run that was killed continues from its checkpoint to the same bits.
    Raises RetrofitError when the loss is not finite.
    """
    module = network.module.to(context.device, memory_format=torch.channels_last)
    module.requires_grad_(True)
    samples = len(images.y)
    size = min(training.batch, samples)
    batches = Batches(samples, size, context.seed_for("batch order"), drop_last=True)
    steps = training.epochs * batches.per_epoch

    def rate(step: int) -> float:
        return training.learning_rate * factor(step, steps, training.warm_up)

    fit(
        module,
        loss_of(network, images, batches, training, context),
        torch.optim.AdamW(
            decayed(module, training.weight_decay), lr=training.learning_rate, fused=True
        ),
        steps=steps,
        context=context,
        learning_rate=rate,
        clip_norm=training.clip_norm,
        precision=training.precision,
        steps_per_epoch=batches.per_epoch,
        after_step=loss_rows(context, steps, rate),
        after_epoch=accuracy_rows(context, network, validation, steps, batches.per_epoch),
    )
    module.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    return steps


def factor(step: int, steps: int, rising: float) -> float:
    """What the rate is multiplied by at update ``step``: up over the share ``rising``, then a cosine."""
    first = round(rising * steps)
    if step < first:
        return warm_up(step, first)
    return cosine(step - first, max(1, steps - first), FLOOR)


def decayed(module: nn.Module, weight_decay: float) -> list[dict]:
    """Parameter groups for AdamW: matrices and filters decay, everything else does not."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in module.parameters():
        groups[parameter.dim() in (2, 4)].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def loss_of(
    network: Network,
    images: Images,
    batches: Batches,
    training: ClassifierTraining,
    context: Context,
) -> Callable[[nn.Module, int], Tensor]:
    """The loss as a function of (module, update): its batch and its augmentation follow from both."""
    pixels = as_batch_first(images.x, context.device)
    labels = torch.from_numpy(images.y).to(context.device)
    seed = context.seed_for("augmentation")

    def loss(module: nn.Module, step: int) -> Tensor:
        chosen = batches.indices(step).to(pixels.device)
        x = pixels[chosen]
        if training.augment:
            x = shift_and_flip(x, stream(seed, step), pad=training.shift)
        logits = module(standardise(x, network.mean, network.std))
        return cross_entropy(
            logits.float(), labels[chosen], label_smoothing=training.label_smoothing
        )

    return loss

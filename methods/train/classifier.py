"""An image classifier trained from scratch: AdamW, warm-up, cosine; killed runs go on to the same bits.

*Fidelity.* No paper: a plain recipe for small transformers (decoupled weight decay on matrices only,
gradient norm bounded), so that studies have a base of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.data.formats import Images
from methods.fit.batches import (
    Batches,
    as_batch_first,
    held_out,
    moments,
    shift_and_flip,
    standardise,
    stream,
    subset,
)
from methods.fit.loop import fit
from methods.fit.schedules import cosine, warm_up
from methods.measure.classification import score
from methods.models.networks.network import Network, arguments, build
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.run.context import Context
    from methods.train.params import TrainClassifier


def apply(
    base: None, data: dict[str, list[Any]], params: TrainClassifier, context: Context
) -> Network:
    """A network trained on the first set of the role `train`.

    Raises RetrofitError: a set without images, sizes that do not fit the images, a loss that is not
    finite.
    """
    images = data["train"][0]
    if not isinstance(images, Images):
        raise RetrofitError(
            f"train_classifier trains on images; {getattr(images, 'name', images)} holds none"
        )
    used = subset(len(images.y), (getattr(images, "options", None) or {}).get("limit"))
    held = round(params.validation * len(used))
    kept, out = (
        used[part] for part in held_out(len(used), held, context.seed_for("validation split"))
    )
    sizes = params.network.model_dump()
    built = arguments(sizes, images.x.shape[1:], len(images.classes))
    try:
        module = build(sizes["architecture"], built, context.seed_for("initial weights"))
    except ValueError as error:
        raise RetrofitError(f"train_classifier: network: {error}") from None
    mean, std = moments(images.x[kept])
    network = Network(
        module.to(context.device), sizes["architecture"], built, mean, std, images.classes
    )
    batches = Batches(len(kept), params.batch, context.seed_for("batch order"))
    steps = params.epochs * batches.per_epoch
    rising = round(params.warm_up * steps)
    fit(
        module,
        loss_of(images.x[kept], images.y[kept], network, batches, params, context),
        torch.optim.AdamW(decayed(module, params.weight_decay), lr=params.learning_rate),
        steps=steps,
        context=context,
        learning_rate=lambda step: (
            params.learning_rate * warm_up(step, rising) * cosine(step, steps, 0.01)
        ),
        clip_norm=params.clip_norm,
        precision=params.precision,
        steps_per_epoch=batches.per_epoch,
        after_step=lambda step, loss: (
            context.record(step=step, loss=float(loss)) if step % 50 == 0 or step == steps else None
        ),
    )
    network.metrics = {"updates": Metric(steps, unit="updates")}
    if held:
        found = score(network.logits(images.x[out]), torch.from_numpy(images.y[out]))
        network.metrics["validation_accuracy"] = found["accuracy"]
    module.eval().requires_grad_(False)
    return network


def decayed(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: matrices and filters decay, biases, norms and tokens do not."""
    groups = {True: [], False: []}
    for parameter in module.parameters():
        groups[parameter.dim() in (2, 4)].append(parameter)
    return [
        {"params": groups[True], "weight_decay": weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def loss_of(
    x: Any,
    y: Any,
    network: Network,
    batches: Batches,
    params: TrainClassifier,
    context: Context,
):
    """The loss as a function of (network, update)."""
    pixels = as_batch_first(x, context.device)
    labels = torch.from_numpy(y).to(context.device)
    seed = context.seed_for("augmentation")

    def loss(module: nn.Module, step: int) -> Tensor:
        chosen = batches.indices(step).to(pixels.device)
        inputs = pixels[chosen]
        if params.augment:
            inputs = shift_and_flip(inputs, stream(seed, step), pad=2)
        logits = module(standardise(inputs, network.mean, network.std))
        return cross_entropy(logits.float(), labels[chosen], label_smoothing=params.label_smoothing)

    return loss

"""Training images with SGD by the one training loop, with every update's cost counted.

The history has rows (step, tflop, validation_accuracy) that continue over the steps of a chain: `tflop`
is what has been spent, in 10^12 FLOPs, since the first network was drawn, so that curves of different ways to
the same network can be laid over each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.data.kinds import Images
from methods.fit.batches import (
    Batches,
    as_batch_first,
    shift_and_flip,
    standardise,
    stream,
)
from methods.fit.history import ROWS, accuracy_metric
from methods.fit.images import training_and_validation
from methods.fit.loop import fit
from methods.grow.mixture import Mixture
from methods.grow.network import GrowingNetwork
from methods.measure.classification import accuracy
from methods.measure.cost import count, count_parameters
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.grow.params import Grows, Recipe
    from methods.models.networks.network import Network
    from methods.run.context import Context

TERA, MEGA = 1e12, 1e6
BACKWARD = 2
"""A backward pass costs about as much as two forward passes: gradients of inputs and of weights."""


def rate(
    step: int,
    steps: int,
    recipe: Recipe,
    per_epoch: int,
    cycles: int = 1,
    decay: float = 1.0,
) -> float:
    """The learning rate of update ``step``: a linear rise, then ``cycles`` cosines over all steps.

    The first cosine runs from step 0, also under the rise, as in timm's scheduler.
    """
    rising = recipe.warm_up * per_epoch
    if step < rising:
        start = recipe.warm_up_rate
        return start + (recipe.learning_rate - start) * step / rising
    cycle, position = divmod(step * cycles / steps, 1)
    low = recipe.final_rate
    # The published settings decay below the floor, and a cosine would then rise to it.
    highest = max(low, recipe.learning_rate * decay**cycle)
    return low + 0.5 * (highest - low) * (1 + math.cos(math.pi * position))


def cut_out(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Zeros in a square of each image, whose centre is anywhere in it: [n, c, h, w] to the same."""
    n, _, height, width = x.shape
    rows = torch.randint(0, height, (n, 1), generator=generator).to(x.device) - side // 2
    columns = torch.randint(0, width, (n, 1), generator=generator).to(x.device) - side // 2
    y, z = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    inside_rows = (y >= rows) & (y < rows + side)
    inside_columns = (z >= columns) & (z < columns + side)
    return x.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0)


def flops_of_update(module: nn.Module, batch: int, image: tuple[int, ...]) -> int:
    """FLOPs (two for each multiply-accumulate) of a forward and a backward pass over a batch.

    Mixing templates is counted, once for the batch. image: [c, h, w].
    """
    device = next(module.parameters()).device
    training = module.training
    macs = count(module.eval(), torch.zeros(batch, *image, device=device)).macs
    module.train(training)
    return 2 * (1 + BACKWARD) * macs


def images_of(
    data: dict[str, list[Any]], recipe: Recipe, context: Context
) -> tuple[Images, Images]:
    """(training, validation) images: of the role `validation`, or a share of the training images.

    Raises RetrofitError: a set without images, validation images of another kind, too few images.
    """
    training, validation = training_and_validation(data, recipe.validation, recipe.method, context)
    if len(training.y) < 2:
        raise RetrofitError(f"{training.name}: {len(training.y)} images are too few to train on")
    return training, validation


def channels_first(images: Images) -> tuple[int, int, int]:
    """The shape [c, h, w] of an image."""
    height, width, channels = (*images.x.shape[1:], 1)[:3]
    return channels, height, width


def train(
    network: GrowingNetwork,
    training: Images,
    validation: Images,
    recipe: Recipe,
    context: Context,
    *,
    epochs: int,
    cycles: int = 1,
    cycle_decay: float = 1.0,
    parts: tuple[Any, ...] = (None,),
) -> None:
    """Train a network in place for ``epochs``, for each of ``parts`` in turn, and note the cost.

    parts: of a :class:`Mixture` (0 and 1 for its members); each has the whole schedule, and no other
    part's parameters move meanwhile. (None,) trains the module as it is.
    The notes `training_flops`, `updates` and `curve` are carried on; metrics of cost and of the
    validation images are set. A killed run continues to the same bits.
    Raises RetrofitError when the loss is not finite.
    """
    module = network.module.to(context.device)
    if not isinstance(module, Mixture):  # whose stacks of templates have a dimension more
        module.to(memory_format=torch.channels_last)
    batch = min(recipe.batch, len(training.y))
    batches = Batches(len(training.y), batch, context.seed_for("batch order"), drop_last=True)
    each = epochs * batches.per_epoch
    before = network.notes.get("updates", 0)
    spent = network.notes.get("training_flops", 0)
    image = channels_first(training)
    curve = network.notes.setdefault("curve", [])
    for row in curve:
        context.record(**row)

    def of(step: int) -> tuple[Any, int]:
        return parts[step // each], step % each

    def using(part: Any) -> nn.Module:
        return module if part is None else module.use(part)

    cost = [flops_of_update(using(part), batch, image) for part in parts]
    every = max(1, len(parts) * each // ROWS)

    def rate_of(step: int) -> float:
        return rate(of(step)[1], each, recipe, batches.per_epoch, cycles, cycle_decay)

    def flops(steps: int) -> int:
        whole, rest = divmod(steps, max(each, 1))
        return spent + each * sum(cost[:whole]) + (rest * cost[whole] if rest else 0)

    def after_step(step: int, loss: Tensor) -> None:
        if step % every == 0:
            context.record(step=before + step, loss=float(loss), rate=rate_of(step - 1))

    def note_accuracy(steps: int) -> None:
        if len(validation.y):
            context.record(
                step=before + steps,
                tflop=flops(steps) / TERA,
                validation_accuracy=accuracy(network, validation),
            )

    loss_at = _loss_of(training, network, batches, recipe, context)

    def loss(called: nn.Module, step: int) -> Tensor:
        using(of(step)[0])
        return loss_at(called, before + step)

    if each:
        fit(
            module,
            loss,
            torch.optim.SGD(
                _groups(module, recipe.weight_decay),
                lr=recipe.learning_rate,
                momentum=recipe.momentum,
                nesterov=recipe.momentum > 0,
            ),
            steps=len(parts) * each,
            context=context,
            learning_rate=rate_of,
            precision=recipe.precision,
            steps_per_epoch=batches.per_epoch,
            after_step=after_step,
            after_epoch=lambda epoch: note_accuracy((epoch + 1) * batches.per_epoch),
        )
    if not isinstance(module, Mixture):
        module.to(memory_format=torch.contiguous_format)
    module.eval()
    total = len(parts) * each
    network.notes["updates"] = before + total
    network.notes["training_flops"] = flops(total)
    network.notes["curve"] = [row for row in context.history if "tflop" in row]


def train_grown(
    network: GrowingNetwork,
    training: Images,
    validation: Images,
    params: Grows,
    context: Context,
    finish: Callable[[], None] | None = None,
) -> GrowingNetwork:
    """Train a network that has just grown, as the parameters say, and describe it.

    Its metrics get `accuracy_at_growth`, on the validation images before the first update.
    finish: done to the network between training and description.
    """
    at_growth = accuracy_metric(network, validation, "accuracy_at_growth")
    train(
        network,
        training,
        validation,
        params,
        context,
        epochs=params.epochs,
        cycles=params.cycles,
        cycle_decay=params.cycle_decay,
    )
    if finish is not None:
        finish()
    describe(network, validation)
    network.metrics |= at_growth
    return network


def grown_from(base: Network, images: Images) -> GrowingNetwork:
    """The payload of a network that goes on growing: what `base` is, with its costs so far.

    Raises RetrofitError where the images are of another kind than those that it was trained on.
    """
    image, kind = list(channels_first(images)), base.notes.get("image")
    if kind not in (None, image) or base.classes != images.classes:
        raise RetrofitError(
            f"{images.name} has images of {image} in {len(images.classes)} classes; the network was "
            f"trained on {kind or 'others'} in {len(base.classes)}"
        )
    return GrowingNetwork(
        base.module,
        base.architecture,
        base.arguments,
        base.mean,
        base.std,
        base.classes,
        {**base.notes, "image": image},
    )


def describe(network: GrowingNetwork, validation: Images) -> None:
    """Set the metrics of cost, and of the validation images where there are any.

    The cost of a forward pass is that of one image.
    """
    module = network.module
    form = network.notes.get("mixture")
    inputs = network.notes["image"]
    macs = count(module, torch.zeros(1, *inputs, device=next(module.parameters()).device)).macs
    network.metrics = {
        "training_tflop": Metric(
            network.notes["training_flops"] / TERA, unit="TFLOP", higher_is_better=False
        ),
        "forward_mflop": Metric(2 * macs / MEGA, unit="MFLOP", higher_is_better=False),
        "updates": Metric(network.notes["updates"], unit="updates"),
        "parameters": Metric(count_parameters(module), higher_is_better=False),
    }
    if form:
        network.metrics["coefficients"] = Metric(
            sum(alpha.numel() for alpha in module.coefficients()), higher_is_better=False
        )
    network.metrics |= accuracy_metric(network, validation)


def _groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Everything decays but the coefficients of a mixture."""
    free = module.coefficients() if isinstance(module, Mixture) else []
    known = {id(parameter) for parameter in free}
    rest = [p for p in module.parameters() if id(p) not in known]
    groups = [{"params": rest, "weight_decay": weight_decay}]
    return [*groups, {"params": free, "weight_decay": 0.0}] if free else groups


def _loss_of(
    images: Images,
    network: GrowingNetwork,
    batches: Batches,
    recipe: Recipe,
    context: Context,
) -> Callable[[nn.Module, int], Tensor]:
    pixels = as_batch_first(images.x, context.device)
    labels = torch.from_numpy(images.y).to(context.device)
    seed = context.seed_for("augmentation")

    def loss(module: nn.Module, step: int) -> Tensor:
        chosen = batches.indices(step).to(pixels.device)
        x, generator = pixels[chosen], stream(seed, step)
        if recipe.shift or recipe.mirror:
            x = shift_and_flip(x, generator, pad=recipe.shift, flip=recipe.mirror)
        x = standardise(x, network.mean, network.std)
        if recipe.cutout:
            x = cut_out(x, recipe.cutout, generator)
        x = x.contiguous(memory_format=torch.channels_last)
        return cross_entropy(module(x).float(), labels[chosen])

    return loss

"""An image classifier trained from scratch as a Sparse-IFT network.

Fidelity
--------
Follows the paper and its published configuration: families and exemptions (see `transform`),
initialisation at the dense scale with no correction for density, SGD with Nesterov momentum and
weight decay on all parameters, the dense network's schedule unchanged, RigL with a cosine from .3
until three quarters of training, masks of the optimiser's state. ``match: updates`` is the paper's
equal number of steps; ``training_flops`` shortens the runs whose masks cost more than f_s (RigL's
dense gradients, gradual pruning), so that all trainings cost the same.

Controls are the same step: ``family: dense``, and ``update: gradual``, which trains the larger
network dense at first and prunes it by magnitude to the same FLOPs.

Masks are simulated with dense kernels. FLOPs count non-zeros; milliseconds (`step_time`) do not fall.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from methods.data.kinds import Images
from methods.fit.batches import Batches, moments
from methods.fit.classifier import loss_of
from methods.fit.history import accuracy_metric, accuracy_rows, loss_rows
from methods.fit.images import training_and_validation
from methods.fit.loop import fit
from methods.fit.schedules import cosine, multi_step, warm_up
from methods.models.networks.network import arguments, build
from methods.prune import sizes
from methods.prune.network import SparseNetwork
from methods.prune.sparse_training import SparseTraining, detach
from methods.prune.training_cost import (
    activation_bytes,
    sparse_training_bytes,
    steps_within,
    training_bytes,
    training_flops,
)
from methods.prune.transform import Plan, Recipe, counted, transform
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.prune.params import SparseIFT, Sparsity
    from methods.run.context import Context


def apply(
    base: None, data: dict[str, list[Any]], params: SparseIFT, context: Context
) -> SparseNetwork:
    """A network trained on the first set of the role ``train``.

    Metrics: `updates`, costs (see :func:`costs`), and `validation_accuracy` where there are images of
    the role ``validation``. The history has (step, loss, rate) and (step, epoch,
    validation_accuracy). Raises RetrofitError: a set without images, layers that cannot be
    transformed, a loss that is not finite.
    """
    images, validation = training_and_validation(data, 0.0, "sparse_ift", context)
    network, plan = _network(images, params, context)
    module = network.module.to(context.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=params.learning_rate,
        momentum=params.momentum,
        nesterov=params.momentum > 0,
        weight_decay=params.weight_decay,
    )
    size = min(params.batch, len(images.y))
    batches = Batches(len(images.y), size, context.seed_for("batch order"), drop_last=True)
    nominal = params.epochs * batches.per_epoch
    steps = updates(params, plan, nominal)
    sparse_training(module, optimizer, steps, params, context)

    def rate(step: int) -> float:
        return params.learning_rate * factor(step, steps, nominal // params.epochs, nominal, params)

    fit(
        module,
        loss_of(network, images, batches, params, context),
        optimizer,
        steps=steps,
        context=context,
        learning_rate=rate,
        clip_norm=params.clip_norm,
        precision=params.precision,
        steps_per_epoch=batches.per_epoch,
        after_step=loss_rows(context, steps, rate),
        after_epoch=accuracy_rows(context, network, validation, steps, batches.per_epoch),
    )
    pair = torch.zeros(2, *network_input(images), device=context.device)
    network.metrics = costs(plan, params, steps, nominal, size, module, optimizer, 1)
    network.metrics["memory/activations"] = Metric(
        activation_bytes(module.train(), pair, 2), unit="B", higher_is_better=False
    )
    detach(module).to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    network.metrics |= accuracy_metric(network, validation)
    return network


def factor(step: int, steps: int, per_epoch: int, nominal: int, params: SparseIFT) -> float:
    """What the rate is multiplied by at update ``step`` of ``steps``.

    The schedule is the dense network's of ``nominal`` updates, stretched to this run's.
    """
    rising = warm_up(step, round(params.warm_up * steps))
    if params.schedule == "cosine":
        return rising * cosine(step, steps)
    stones = [math.ceil(stone * per_epoch * steps / nominal) for stone in params.milestones]
    return rising * multi_step(step, stones, params.factor)


def updates(params: Sparsity, plan: Plan, nominal: int) -> int:
    """How many updates the run makes, where the dense network makes ``nominal``."""
    if params.match == "updates" or not plan.masked:
        return nominal
    budget = 3 * 2 * plan.before.macs * nominal
    # Masks fill the budget to the last weight but not beyond, so nothing is gained by one step more.
    return min(nominal, steps_within(budget, **_schedule(params, plan)))


def _schedule(params: Sparsity, plan: Plan) -> dict[str, Any]:
    return {
        "update": params.update if plan.masked else "static",
        "every": params.every,
        "begin": params.begin,
        "end": params.end,
        "sparse": 2 * plan.after.effective_macs,
        "dense": 2 * plan.after.macs,
    }


def sparse_training(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    params: Sparsity,
    context: Context,
) -> SparseTraining | None:
    """The masks' hooks as the parameters say; None for a network without masks."""
    if not hasattr(module, "masks_start"):
        return None
    return SparseTraining(
        module,
        optimizer,
        steps,
        params.update,
        params.every,
        params.drop,
        params.begin,
        params.end,
        context.seed_for("mask growth"),
    )


def recipe(params: Sparsity, family: str, activation: str = "default") -> Recipe:
    """The recipe that the parameters describe."""
    return Recipe(
        family,
        params.sparsity,
        params.distribution,
        activation,
        tuple(params.only),
        tuple(params.exempt),
        params.ends,
        params.resolve,
    )


def costs(
    plan: Plan,
    params: Sparsity,
    steps: int,
    nominal: int,
    batch: int,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    moments: int,
) -> dict[str, Metric]:
    """What the network and its training cost, beside the dense network.

    `weights`, `weights/nonzero`: parameters, and those that no mask rules out.
    `flops`: of a forward pass for one example, without products with masked weights; `flops/ratio`:
    over the dense network's; `flops/kernels`: with them, as a dense kernel computes.
    `training_flops`, and its ratio. `sparsity`: of the masked layers. `memory/training`: weights,
    gradients, optimiser state and masks as held here; `memory/sparse`: of a sparse implementation.
    """
    smaller = {"higher_is_better": False}
    total = training_flops(steps, **_schedule(params, plan)) * batch
    reference = 3 * 2 * plan.before.macs * nominal * batch
    return {
        "updates": Metric(steps, unit="updates"),
        "weights": Metric(plan.after.parameters, **smaller),
        "weights/nonzero": Metric(plan.after.nonzeros, **smaller),
        "sparsity": Metric(plan.sparsity if plan.masked else 0.0),
        "flops": Metric(2 * plan.after.effective_macs, **smaller),
        "flops/ratio": Metric(plan.ratio, **smaller),
        "flops/kernels": Metric(2 * plan.after.macs, **smaller),
        "training_flops": Metric(total, **smaller),
        "training_flops/ratio": Metric(total / reference, **smaller),
        "memory/training": Metric(training_bytes(module, optimizer), unit="B", **smaller),
        "memory/sparse": Metric(
            sparse_training_bytes(plan.after.nonzeros, plan.kept, moments), unit="B", **smaller
        ),
    }


def noted(plan: Plan) -> dict[str, Any]:
    """The plan as plain values, to travel with the artifact."""
    found = {"recipe": asdict(plan.recipe), "layers": [asdict(row) for row in plan.rows]}
    return json.loads(json.dumps(found))  # tuples as lists, as they are read back


def _network(images: Images, params: SparseIFT, context: Context) -> tuple[SparseNetwork, Plan]:
    """A fresh network, transformed, with the plan."""
    shape = params.network.model_dump()
    built = arguments(shape, images.x.shape[1:], len(images.classes))
    seed = context.seed_for("initial weights")
    architecture = params.network.architecture
    module = build(architecture, built, seed)
    example = torch.zeros(1, *network_input(images))
    made, plan, final = module, None, built
    if params.family != "dense":
        wide = None
        chosen = recipe(params, params.family, params.activation)
        if params.family == "wide":
            final = wider(built, sizes.wide_factor(chosen.sparsity))
            wide = build(architecture, final, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed_for("stand-in weights"))
            made, plan = transform(
                module,
                example,
                chosen,
                seed=context.seed_for("masks"),
                start="full" if params.update == "gradual" else "random",
                wide=wide,
            )
    else:
        cost = counted(module, example)
        plan = Plan(recipe(params, "dense"), [], cost, cost)
    mean, std = moments(images.x)
    notes = {"sparse_ift": noted(plan)}
    return SparseNetwork(made, architecture, final, mean, std, images.classes, notes), plan


def wider(built: dict[str, Any], factor: float) -> dict[str, Any]:
    """A network's arguments with its width times the factor (and divisible by its heads)."""
    width = sizes.widened(built["width"], factor)
    return built | {"width": width - width % built.get("heads", 1)}


def network_input(images: Images) -> tuple[int, int, int]:
    """(channels, height, width) of an image."""
    height, width, channels = (*images.x.shape[1:], 1)[:3]
    return channels, height, width

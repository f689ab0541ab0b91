"""Training one architecture from fresh weights: the found one, or any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.fit.batches import Batches
from methods.fit.classifier import decayed, factor
from methods.fit.history import loss_rows
from methods.fit.loop import fit
from methods.run.metrics import Metric
from methods.search import footprint
from methods.search.choices import Architecture, genotype
from methods.search.found import Searched, Trained
from methods.search.spaces.building import subnet
from methods.search.tasks import Parts, Task, parts
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.run.context import Context
    from methods.search.params import Recipe, RetrainArchitecture

ROWS = 100


def apply(
    base: Searched, data: dict[str, list[Any]], params: RetrainArchitecture, context: Context
) -> Trained:
    """The architecture that ``base`` found, trained on every item that is not held out.

    Metrics: those of the role `test` (`accuracy`, `cross_entropy`), the same on held-out items under
    `validation/`, `parameters`, `macs`, and what the search cost under `search/`. The history begins
    with the search's rows (epoch, found_accuracy, …).
    """
    architecture = _wanted(base, params.after)
    split = parts(data, params.validation, base.space.get("length"), context, base.facts)
    for row in base.notes.get("curve", []):
        context.record(**{key: value for key, value in row.items() if key != "found"})
    module = train(base.space, architecture, split, params.recipe, context)
    result = Trained(module, base.space, split.task.facts, architecture)
    result.notes = {"genotype": genotype(architecture)}
    result.metrics = measured(module, split)
    for name, (value, unit, up) in base.notes.get("search", {}).items():
        result.metrics[f"search/{name}"] = Metric(value, unit=unit, higher_is_better=up)
    return result


def train(
    space: dict[str, Any],
    architecture: Architecture,
    split: Parts,
    recipe: Recipe,
    context: Context,
    stream: str = "",
) -> nn.Module:
    """A fresh module of the architecture, trained by the recipe, in evaluation mode.

    stream: names the random streams of weights and batches, for several trainings in one run.
    """
    seed = context.seed_for(f"{stream}weights of the retrained architecture")
    module = subnet(space, split.task.facts, architecture, seed)
    module.to(context.device, memory_format=torch.channels_last)
    rows = split.rows
    batches = Batches(
        len(rows),
        min(recipe.batch, len(rows)),
        context.seed_for(f"{stream}batch order of the retraining"),
        drop_last=True,
    )
    steps = recipe.epochs * batches.per_epoch
    fit(
        module,
        lambda network, step: split.task.loss(network, rows[batches.indices(step)]),
        torch.optim.AdamW(decayed(module, recipe.weight_decay), lr=recipe.learning_rate),
        steps=steps,
        context=context,
        learning_rate=lambda step: recipe.learning_rate * factor(step, steps, recipe.warm_up),
        clip_norm=recipe.clip_norm,
        steps_per_epoch=batches.per_epoch,
        after_step=loss_rows(context, steps),
    )
    return module.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)


def measured(module: nn.Module, split: Parts) -> dict[str, Metric]:
    """Metrics on test and held-out items, and the size."""
    found: dict[str, Metric] = {}
    if split.test is not None:
        found |= split.test.score(module)
    for name, metric in split.validation.score(module, split.validation_rows).items():
        found[f"validation/{name}"] = metric
    less = {"higher_is_better": False}
    found["parameters"] = Metric(sum(p.numel() for p in module.parameters()), **less)
    found["macs"] = Metric(footprint.macs(module, _example(split.task)), **less)
    return found


def _example(task: Task) -> Tensor:
    return task.inputs(torch.zeros(1, dtype=torch.int64))


def _wanted(base: Searched, after: int | None) -> Architecture:
    if not isinstance(base, Searched):
        raise RetrofitError(
            f"retrain_architecture follows tanglenas or two_stage_search, not {type(base).__name__}"
        )
    if after is None:
        return base.architecture
    if after > len(base.epochs):
        raise RetrofitError(f"after: {after}, but the search had {len(base.epochs)} epochs")
    return base.epochs[after - 1]

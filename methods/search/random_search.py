"""Random search at an equal budget, and the mean of a space: architectures trained from scratch.

A budget of b epochs of the super-network pays for as many random architectures as their own
multiply-accumulates allow: what a search of some epochs and its retraining cost at most.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from methods.run.checkpoint import Checkpoint
from methods.run.metrics import Metric
from methods.search import footprint
from methods.search.choices import Architecture, genotype
from methods.search.found import Candidates, Trained
from methods.search.retrain import _example, measured, train
from methods.search.samplers import sampler
from methods.search.spaces.building import subnet, supernet
from methods.search.tasks import parts
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.run.context import Context
    from methods.search.params import ChooseArchitecture, RandomArchitectures


def apply(
    base: None, data: dict[str, list[Any]], params: RandomArchitectures, context: Context
) -> Candidates:
    """Random architectures, each trained by the recipe. A killed run keeps those that were done.

    Metrics: `candidates`, and `budget` spent, in epochs of the super-network. The history has a
    row (step, accuracy, cross_entropy) for each candidate, on held-out items.
    """
    space = params.space.model_dump()
    split = parts(data, params.validation, space.get("length"), context)
    network = supernet(space, split.task.facts).to(context.device)
    example = _example(split.task)
    with network.mixture.under(weights=network.sample(sampler("darts"))):
        whole = footprint.macs(network, example)
    generator = context.numpy("random architectures")
    trained: list[Trained] = []
    scores: list[dict[str, dict[str, float]]] = []
    spent = 0.0
    saved = context.checkpoint.load()
    while True:
        architecture = network.space.random(generator)
        cost = recipe_cost(space, split.task.facts, architecture, example, params) / whole
        number = len(trained)
        if spent + cost > params.budget and number >= params.least:
            break
        spent += cost
        if saved is not None and number < len(saved["state"]["scores"]):
            module = subnet(space, split.task.facts, architecture, 0)
            module.to(context.device).load_state_dict(_under(saved["tensors"], number))
            module.eval().requires_grad_(False)
            scores.append(saved["state"]["scores"][number])
        else:
            alone = replace(context, checkpoint=Checkpoint(None), history=[])
            module = train(space, architecture, split, params.recipe, alone, f"candidate {number} ")
            scores.append(_values(measured(module, split)))
            context.record(step=number + 1, **_row(scores[-1]))
        trained.append(Trained(module, space, split.task.facts, architecture))
        _save(trained, scores, context)
    result = Candidates(trained, scores)
    result.metrics = {
        "candidates": Metric(len(trained)),
        "budget": Metric(spent, unit="epochs"),
    }
    return result


def recipe_cost(
    space: dict[str, Any],
    facts: dict[str, Any],
    architecture: Architecture,
    example: Any,
    params: RandomArchitectures,
) -> float:
    """Multiply-accumulates of an item, times epochs."""
    module = subnet(space, facts, architecture, 0).to(example.device)
    return params.recipe.epochs * footprint.macs(module, example)


def choose(
    base: Candidates, data: dict[str, list[Any]], params: ChooseArchitecture, context: Context
) -> Trained | Candidates:
    """The candidate that is best on held-out items, with its metrics; or all, with their means."""
    if not isinstance(base, Candidates):
        raise RetrofitError(
            f"choose_architecture follows random_architectures, not {type(base).__name__}"
        )
    if params.by == "mean":
        base.metrics = {
            name: _metric(name, [scores[name] for scores in base.scores]) for name in base.scores[0]
        }
        return base
    losses = [scores["validation/cross_entropy"]["value"] for scores in base.scores]
    number = losses.index(min(losses))
    best = base.trained[number]
    best.notes = {"genotype": genotype(best.architecture)}
    best.metrics = {name: _metric(name, [score]) for name, score in base.scores[number].items()}
    return best


def _metric(name: str, scores: list[dict[str, Any]]) -> Metric:
    value = sum(score["value"] for score in scores) / len(scores)
    return Metric(value, unit=scores[0]["unit"], higher_is_better=scores[0]["higher_is_better"])


def _values(metrics: dict[str, Metric]) -> dict[str, dict[str, Any]]:
    return {
        name: {"value": m.value, "unit": m.unit, "higher_is_better": m.higher_is_better}
        for name, m in metrics.items()
    }


def _row(scores: dict[str, dict[str, Any]]) -> dict[str, float]:
    kinds = ("accuracy", "cross_entropy")
    return {kind: scores[f"validation/{kind}"]["value"] for kind in kinds}


def _save(trained: list[Trained], scores: list[dict], context: Context) -> None:
    tensors = {
        f"{number}/{name}": tensor
        for number, one in enumerate(trained)
        for name, tensor in one.module.state_dict().items()
    }
    context.checkpoint.save(tensors, {"scores": scores})


def _under(tensors: dict[str, Any], number: int) -> dict[str, Any]:
    start = f"{number}/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

"""Two-stage search (SPOS, arXiv 1904.00420): candidates judged with the weights of a super-network.

The first stage is `tanglenas` with the sampler `spos`; this is the second, by random search or by
evolution. Candidates are judged on items that the weights did not see.

*Fidelity.* The defaults of the evolution are those of the published code (population 30, ten parents, ten
children of each kind, chance of mutation .2). An architecture is judged once, whoever proposes it. Batch
statistics are taken anew for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from methods.run.metrics import Metric
from methods.search.choices import Architecture, Space, genotype
from methods.search.found import Searched
from methods.search.tanglenas import Judge, halves
from methods.search.tasks import parts
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.run.context import Context
    from methods.search.params import TwoStageSearch

Judgement = Callable[[Architecture], float]
"""The loss of an architecture; smaller is better."""


def apply(
    base: Searched, data: dict[str, list[Any]], params: TwoStageSearch, context: Context
) -> Searched:
    """``base`` with the best architecture of the second stage. Metrics: `judged` candidates, and the
    metrics of the found one on held-out items. The history has (judged, best) after each candidate.
    """
    if not isinstance(base, Searched):
        raise RetrofitError(
            f"two_stage_search follows tanglenas with the sampler spos, not {type(base).__name__}"
        )
    split = parts(data, params.validation, base.space.get("length"), context, base.facts)
    for_weights, for_choices = halves(split, base.notes["portion"], context)
    base.supernet.to(context.device)
    judge = Judge(base.supernet, split, for_weights, for_choices, params, context)
    rows = for_choices[: params.items]

    def loss(architecture: Architecture) -> float:
        return judge.score(architecture, split.task, rows)["cross_entropy"].value

    generator = context.numpy("two-stage search")
    memory = Memory(loss, context)
    if params.strategy == "random":
        count = params.population + (params.rounds - 1) * (params.crossovers + params.mutations)
        random_search(base.supernet.space, memory, count, generator)
    else:
        evolve(base.supernet.space, memory, params, generator)
    best = memory.best(1)[0]
    scores = judge.validate(best)
    base.architecture = best
    base.metrics = {
        "judged": Metric(len(memory.known)),
        "found/accuracy": scores["accuracy"],
        "found/cross_entropy": scores["cross_entropy"],
    }
    context.log.info("%s: found %s", context.label, genotype(best))
    return base


class Memory:
    """Losses of all candidates so far, by genotype."""

    def __init__(self, loss: Judgement, context: Context):
        self._loss, self._context = loss, context
        self.known: dict[str, tuple[float, Architecture]] = {}

    def judge(self, architecture: Architecture) -> float:
        """The loss, computed once."""
        name = genotype(architecture)
        if name not in self.known:
            self.known[name] = (self._loss(architecture), architecture)
            best = min(loss for loss, _ in self.known.values())
            self._context.record(judged=len(self.known), best=best)
        return self.known[name][0]

    def best(self, count: int) -> list[Architecture]:
        """The best ones, best first."""
        ordered = sorted(self.known.values(), key=lambda item: item[0])
        return [architecture for _, architecture in ordered[:count]]


def random_search(space: Space, memory: Memory, count: int, generator: np.random.Generator) -> None:
    """Judge ``count`` uniform draws."""
    for _ in range(count):
        memory.judge(space.random(generator))


def evolve(
    space: Space, memory: Memory, params: TwoStageSearch, generator: np.random.Generator
) -> None:
    """A random population, and generations of children of the best so far."""
    random_search(space, memory, params.population, generator)
    for _ in range(params.rounds - 1):
        parents = memory.best(params.parents)
        children = [
            mutate(space, _one(parents, generator), params.mutation, generator)
            for _ in range(params.mutations)
        ]
        children += [
            cross(_one(parents, generator), _one(parents, generator), generator)
            for _ in range(params.crossovers)
        ]
        for child in children:
            memory.judge(child)


def mutate(
    space: Space, parent: Architecture, chance: float, generator: np.random.Generator
) -> Architecture:
    """Each decision is drawn anew with this chance."""
    drawn, changed = space.random(generator), generator.random(len(parent)) < chance
    return {
        name: drawn[name] if new else option
        for (name, option), new in zip(parent.items(), changed, strict=True)
    }


def cross(one: Architecture, other: Architecture, generator: np.random.Generator) -> Architecture:
    """Each decision from either parent."""
    coin = generator.random(len(one)) < 0.5
    return {name: (one if heads else other)[name] for name, heads in zip(one, coin, strict=True)}


def _one(parents: list[Architecture], generator: np.random.Generator) -> Architecture:
    return parents[int(generator.integers(len(parents)))]

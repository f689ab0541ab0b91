"""TangleNAS: gradient-based architecture search over entangled weights.

Sukthanker, Zela, Staffler, Dooley, Grabocka, Hutter, "Weight-Entanglement Meets Gradient-Based Neural
Architecture Search", AutoML 2024 (arXiv 2312.10440).

Fidelity
--------
Paper: superposition and its combinations over several decisions; DrNAS, DARTS and GDAS as the optimiser
of the architecture; Adam at 3e-4 with betas (.5, .999) and decay 1e-3 on one half of the items, the
weights on the other; parameters of the architecture from N(0, 1e-3 squared); the found architecture is
the largest parameter of each decision. Superposition is computed as a mask, which is the same sum
(`masks.py`); GDAS' straight-through gradient thus reaches all operations and not the drawn one alone, as
it does in the published weight-sharing code but not in the published entangled code. No sampler that
draws one option learns widths this way: a channel that is off is masked where it is made and where it is
read, and a product of zeros has no slope (`tests/search/test_supernet.py`).

Defects of the published code (automl/TangleNAS, 20aa4b1), and what is done about them:

1. In one space two kernels' architecture weights are swapped (a list in another order than the
   operations). Here options are found by name and size, never by position.
2. Its two generations slice kernels differently (corner, centre). Here always the centre.
3. Packed queries, keys and values are sliced as one matrix: a smaller embedding reads the wrong rows.
   Here three matrices.
4. Queries, keys and values each carry the architecture weight. Here the output does, once.
5. Layer normalisation takes statistics over the largest width in the mixture and over the chosen one in
   the sub-network. Here each option has its own, so one-hot weights are the sub-network.
6. In cells the weight of a group of entangled operations is lost in the batch normalisation behind it.
   Here it stands outside.
7. The index of a chosen combination is computed with the wrong list's length. Here no such index is.
8. The straight-through weight does not reach an embedding; a bias is left out of a mixture. Both do here.
9. The weight optimiser of one space holds the architecture parameters too. Here `Supernet.weights()`.
10. An evaluation draws new architecture weights. Here it cuts the found architecture out, with batch
    statistics of its own.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.fit.batches import Batches, held_out
from methods.run.metrics import Metric
from methods.search import footprint
from methods.search.choices import Architecture, genotype
from methods.search.found import Searched
from methods.search.samplers import sampler
from methods.search.search import entropy, search
from methods.search.spaces.building import supernet as build
from methods.search.supernet import Supernet, recalibrate
from methods.search.tasks import Parts, Task, parts

if TYPE_CHECKING:
    from methods.run.context import Context
    from methods.search.params import TangleNAS

ROWS = 100
"""About so many rows of the history have the loss."""


def apply(base: None, data: dict[str, list[Any]], params: TangleNAS, context: Context) -> Searched:
    """The super-network after the search, with the architecture found.

    Metrics: `saved_bytes` of one step, `supernet_parameters`, `supernet_macs` of one item,
    `step_seconds` of one forward and backward pass, `space_size`, `found/accuracy` and `found/cross_entropy` of the
    architecture found with the super-network's weights on held-out items, `anytime/accuracy` (its
    mean over the epochs). The history has (step, loss) and, after each epoch, (step, epoch,
    found_accuracy, found_cross_entropy, entropy).
    """
    space = params.space.model_dump()
    split = parts(data, params.validation, space.get("length"), context)
    network = build(space, split.task.facts, params.sharing, context.seed_for("initial weights"))
    network.to(context.device, memory_format=torch.channels_last)
    for_weights, for_choices = halves(split, params.portion, context)
    batches = _batches(for_weights, params.batch, context, "batch order")
    others = _batches(for_choices, params.batch, context, "batch order of the choices")
    steps = params.epochs * batches.per_epoch
    judge = Judge(network, split, for_weights, for_choices, params, context)
    every = max(1, steps // ROWS)

    def loss(module: nn.Module, step: int) -> Tensor:
        return split.task.loss(module, for_weights[batches.indices(step)])

    def architecture_loss(module: nn.Module, step: int) -> Tensor:
        return split.task.loss(module, for_choices[others.indices(step)])

    def after_step(step: int, value: Tensor) -> None:
        if step % every == 0 or step == steps:
            context.record(step=step, loss=float(value))

    def after_epoch(epoch: int) -> None:
        found = judge.found(epoch)
        scores = judge.validate(found)
        context.record(
            step=(epoch + 1) * batches.per_epoch,
            epoch=epoch + 1,
            found=found,
            found_accuracy=scores["accuracy"].value,
            found_cross_entropy=scores["cross_entropy"].value,
            entropy=entropy(network.alphas),
        )

    search(
        network,
        loss,
        architecture_loss,
        steps=steps,
        sampler_name=params.sampler,
        steps_per_epoch=batches.per_epoch,
        optimizer=_optimizer(network, params),
        learning_rate=params.learning_rate,
        last_learning_rate=params.last_learning_rate,
        clip_norm=params.clip_norm,
        architecture_learning_rate=params.architecture_learning_rate,
        architecture_weight_decay=params.architecture_weight_decay,
        after_epoch=after_epoch,
        after_step=after_step,
        context=context,
    )
    network.eval()
    curve = [row for row in context.history if "found" in row]
    result = Searched(
        network,
        space,
        split.task.facts,
        curve[-1]["found"],
        epochs=[row["found"] for row in curve],
        notes={"curve": curve, "portion": params.portion},
    )
    result.metrics = _metrics(network, split, for_weights[batches.indices(0)], params, curve)
    result.notes["search"] = {
        name: [metric.value, metric.unit, metric.higher_is_better]
        for name, metric in result.metrics.items()
    }
    context.log.info("%s: found %s", context.label, genotype(result.architecture))
    return result


def halves(split: Parts, portion: float, context: Context) -> tuple[Tensor, Tensor]:
    """Items for the weights and items for the choices, disjoint."""
    count = len(split.rows) - max(1, round(portion * len(split.rows)))
    kept, out = held_out(len(split.rows), max(1, count), context.seed_for("halves of the items"))
    return split.rows[kept], split.rows[out]


class Judge:
    """What an architecture is worth with the super-network's weights, at some moment of the search."""

    def __init__(
        self,
        network: Supernet,
        split: Parts,
        for_weights: Tensor,
        for_choices: Tensor,
        params: Any,
        context: Context,
    ):
        self.network, self.split, self.context = network, split, context
        self.for_weights, self.for_choices = for_weights, for_choices
        self.batches = params.calibration_batches
        self.samples = getattr(params, "curve_samples", 1)
        self.learned = sampler(getattr(params, "sampler", "spos")).learned

    def found(self, epoch: int) -> Architecture:
        """The architecture to deploy now: the parameters' or, without any, the best of a few draws."""
        if self.learned:
            return self.network.architecture()
        generator = np.random.default_rng([self.context.seed_for("curve"), epoch])
        drawn = [self.network.space.random(generator) for _ in range(self.samples)]
        some = self.for_choices[:500]
        losses = [
            self.score(found, self.split.task, some)["cross_entropy"].value for found in drawn
        ]
        return drawn[int(np.argmin(losses))]

    def score(
        self, architecture: Architecture, task: Task, rows: Tensor | None
    ) -> dict[str, Metric]:
        """Metrics of the cut-out sub-network, its batch statistics taken anew."""
        with torch.random.fork_rng(devices=[]):
            module = self.network.extract(architecture)
            rows_used = self.for_weights[: self.batches * 128].split(128)
            recalibrate(module, (self.split.task.inputs(part) for part in rows_used))
            return task.score(module, rows)

    def validate(self, architecture: Architecture) -> dict[str, Metric]:
        """Metrics on the held-out items."""
        return self.score(architecture, self.split.validation, self.split.validation_rows)


def _batches(rows: Tensor, size: int, context: Context, name: str) -> Batches:
    return Batches(len(rows), min(size, len(rows)), context.seed_for(name), drop_last=True)


def _optimizer(network: Supernet, params: TangleNAS) -> torch.optim.Optimizer:
    common = {"lr": params.learning_rate, "weight_decay": params.weight_decay}
    if params.optimizer == "adamw":
        return torch.optim.AdamW(network.weights(), **common)
    return torch.optim.SGD(network.weights(), momentum=params.momentum, **common)


def _metrics(
    network: Supernet, split: Parts, rows: Tensor, params: TangleNAS, curve: list[dict[str, Any]]
) -> dict[str, Metric]:
    spare = copy.deepcopy(network).train()
    # The mixture of equals, with a graph for the choices as well: what an architecture step holds.
    mean = {
        name: torch.full_like(alpha, 1 / len(alpha)).requires_grad_()
        for name, alpha in zip(spare.space.choices, spare.alphas, strict=True)
    }

    def loss() -> Tensor:
        with spare.mixture.under(weights=mean):
            return split.task.loss(spare, rows)

    with spare.mixture.under(weights=mean):
        macs = footprint.macs(spare, split.task.inputs(rows[:1]))
    less = {"higher_is_better": False}
    accuracies = [row["found_accuracy"] for row in curve]
    losses = [row["found_cross_entropy"] for row in curve]
    return {
        "saved_bytes": Metric(footprint.saved_bytes(loss, spare), unit="B", **less),
        "supernet_parameters": Metric(sum(p.numel() for p in spare.weights()), **less),
        "supernet_macs": Metric(macs, **less),
        "step_seconds": Metric(
            footprint.seconds(lambda: loss().backward(), repeats=3), unit="s", **less
        ),
        "space_size": Metric(network.space.size),
        "found/accuracy": Metric(accuracies[-1], higher_is_better=True),
        "found/cross_entropy": Metric(losses[-1], unit="nats", **less),
        "anytime/accuracy": Metric(sum(accuracies) / len(accuracies), higher_is_better=True),
        "anytime/cross_entropy": Metric(sum(losses) / len(losses), unit="nats", **less),
    }

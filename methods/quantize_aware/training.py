"""What `ofq` and `anneal` share: images, teacher, the one training loop, what is watched meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.data.kinds import Images
from methods.fit.batches import Batches, as_batch_first, shift_and_flip, standardise, stream
from methods.fit.classifier import decayed
from methods.fit.history import accuracy_metric, loss_rows
from methods.fit.images import labelled
from methods.fit.loop import Stateful, fit
from methods.measure.classification import accuracy
from methods.measure.cost import count
from methods.measure.size import deployed_bits
from methods.models.networks.network import Network
from methods.quantize_aware.distillation import Teacher, distillation_loss
from methods.quantize_aware.modules import WeightQuantizer, masters
from methods.quantize_aware.oscillation import Oscillation, Tracker
from methods.quantize_aware.payload import QuantizedNetwork, input_shape
from methods.quantize_aware.plans import Plan
from methods.quantize_aware.swap import left_float
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.quantize_aware.params import QuantizedTraining
    from methods.run.context import Context

TRACKED_BITS = 4
"""Wider weights are not followed: their steps are so short that nothing depends on oscillation."""
IN_BAND = 0.005
"""How near to a threshold, in steps, `oscillation/in_band` counts."""
QUERY_KEY = ("q_proj", "k_proj", "product_layer")
METRICS = {
    "oscillating": "oscillation/all",
    "oscillating_query_key": "oscillation/query_key",
    "in_band": "in_band",
}
"""What the columns of the history are called among the metrics."""
DENSE_BITS = 16
"""Of what is not quantised, and of scales, in `deployed_bytes`."""


@dataclass
class Data:
    """Images to train on, as one tensor, and those that only show how it goes."""

    pixels: Tensor
    labels: Tensor
    batches: Batches
    validation: Images | None


def images_of(
    data: dict[str, list[Any]], network: Network, params: QuantizedTraining, context: Context
) -> Data:
    """The first set of the role `train`, as much as its `limit` says, and of `validation`.

    Raises RetrofitError: no images, images of other classes than the network's.
    """
    training = _taken(data["train"][0], network, params.method)
    validation = None
    if data.get("validation"):
        validation = _taken(data["validation"][0], network, params.method)
    samples = len(training.y)
    size = min(params.batch, samples)
    return Data(
        as_batch_first(training.x, context.device),
        torch.from_numpy(training.y).to(context.device),
        Batches(samples, size, context.seed_for("batch order"), drop_last=True),
        validation,
    )


def _taken(content: Any, network: Network, method: str) -> Images:
    images = labelled(content, method)
    if list(images.classes) != list(network.classes):
        raise RetrofitError(f"{images.name} has other classes than the network")
    return images


def followed(network: nn.Module) -> dict[str, tuple[Tensor, WeightQuantizer]]:
    """The rounded weights whose oscillation is followed."""
    return {n: m for n, m in masters(network).items() if m[1].bits <= TRACKED_BITS}


@torch.no_grad()
def tracker_of(network: nn.Module, freezing: bool = False) -> Tracker:
    """An oscillation for each rounded weight, from its codes now."""
    return Tracker(
        {
            name.replace(".", "/"): Oscillation(quantizer.codes(rows), freezing=freezing)
            for name, (rows, quantizer) in followed(network).items()
        }
    )


@torch.no_grad()
def watch(network: nn.Module, tracker: Tracker, threshold: float | None = None) -> None:
    """After an update: follow the codes, and hold the weights that are frozen at theirs."""
    for name, (rows, quantizer) in followed(network).items():
        oscillation = tracker[name.replace(".", "/")]
        codes = oscillation.update(quantizer.codes(rows), threshold)
        if oscillation.freezing:
            held = quantizer.value(rows, codes.to(rows.dtype))
            rows.copy_(torch.where(oscillation.frozen, held, rows))


def train(
    network: Network,
    data: Data,
    params: QuantizedTraining,
    context: Context,
    tracker: Tracker,
    *,
    rate: Callable[[int], float],
    after_update: Callable[[int], None],
    teacher: Teacher | None = None,
    penalty: Callable[[nn.Module, int], Tensor] | None = None,
    keeping: Mapping[str, Stateful] | None = None,
) -> int:
    """Train all parameters of a network with quantised layers, in place; how many updates.

    after_update: called with the number of updates done, before the history is written. penalty: what
    is added to the loss of an update. The history has rows (step, loss, rate) and, after each epoch,
    (step, epoch, oscillating, in_band) with validation_accuracy where there are such images.
    A run that was killed continues to the same bits.
    """
    module = network.module.requires_grad_(True)
    steps = params.epochs * data.batches.per_epoch
    record_loss = loss_rows(context, steps, rate)
    crops = context.seed_for("augmentation")

    def loss(called: nn.Module, step: int) -> Tensor:
        chosen = data.batches.indices(step).to(data.pixels.device)
        pixels = data.pixels[chosen]
        if params.augment:
            pixels = shift_and_flip(pixels, stream(crops, step), pad=params.shift)
        logits = called(standardise(pixels, network.mean, network.std))
        wanted = teacher.logits(pixels, chosen) if teacher is not None else None
        value = distillation_loss(logits, data.labels[chosen], wanted)
        return value if penalty is None else value + penalty(called, step)

    def after_step(step: int, value: Tensor) -> None:
        after_update(step)
        record_loss(step, value)

    def after_epoch(epoch: int) -> None:
        row = shares(module, tracker)
        if data.validation is not None:
            row["validation_accuracy"] = accuracy(network, data.validation)
        context.record(step=(epoch + 1) * data.batches.per_epoch, epoch=epoch + 1, **row)

    fit(
        module,
        loss,
        torch.optim.AdamW(decayed(module, params.weight_decay), lr=rate(0), fused=True),
        steps=steps,
        context=context,
        learning_rate=rate,
        clip_norm=params.clip_norm,
        steps_per_epoch=data.batches.per_epoch,
        after_step=after_step,
        after_epoch=after_epoch,
        keeping={"oscillation": tracker, **(keeping or {})},
    )
    module.eval().requires_grad_(False)
    return steps


@torch.no_grad()
def shares(network: nn.Module, tracker: Tracker) -> dict[str, float]:
    """`oscillating` and `in_band`, shares of the followed weights; empty where there are none.

    `oscillating_query_key`: the same of query and key, or of their product.
    """
    total = joint = oscillating = joint_oscillating = in_band = 0
    for name, (rows, quantizer) in followed(network).items():
        count = int(tracker[name.replace(".", "/")].oscillating.sum())
        total, oscillating = total + rows.numel(), oscillating + count
        in_band += int(quantizer.near(rows, IN_BAND).sum())
        if name.rpartition(".")[2] in QUERY_KEY:
            joint, joint_oscillating = joint + rows.numel(), joint_oscillating + count
    if not total:
        return {}
    found = {"oscillating": oscillating / total, "in_band": in_band / total}
    return found | ({"oscillating_query_key": joint_oscillating / joint} if joint else {})


@torch.no_grad()
def code_entropy(network: nn.Module) -> float | None:
    """Mean entropy in bits of the codes of the followed weights, weighed by their number."""
    bits = weights = 0.0
    for rows, quantizer in followed(network).values():
        codes = (quantizer.codes(rows) - quantizer.low).long().flatten()
        share = torch.bincount(codes, minlength=2**quantizer.bits).double() / codes.numel()
        bits += float(-(share * share.clamp(min=1e-12).log2()).sum()) * codes.numel()
        weights += codes.numel()
    return bits / weights if weights else None


def finished(
    network: Network,
    plans: dict[str, Plan],
    teacher: Network | None,
    tracker: Tracker,
    updates: int,
    data: Data,
    facts: dict[str, Any],
) -> QuantizedNetwork:
    """The payload of a step, with its metrics."""
    names = ("module", "architecture", "arguments", "mean", "std", "classes")
    network.module.cpu()
    notes = dict(network.notes)
    notes["quantize_aware"] = [*notes.get("quantize_aware", []), facts]
    if dense := left_float(network.module):
        notes["kept float"] = dense
    result = QuantizedNetwork(
        **{name: getattr(network, name) for name in names},
        notes=notes,
        plans=plans,
        teacher=teacher,
    )
    one = torch.zeros(1, *input_shape(network.arguments, network.architecture))
    size = deployed_bits(result.network, result.quantized, DENSE_BITS, DENSE_BITS) / 8
    metrics = {
        "updates": Metric(updates, unit="updates"),
        "deployed_bytes": Metric(size, unit="B", higher_is_better=False),
        "macs": Metric(count(result.network, one).macs, unit="MAC", higher_is_better=False),
    }
    for name, value in shares(network.module, tracker).items():
        metrics[METRICS[name]] = Metric(value, higher_is_better=False)
    if (entropy := code_entropy(network.module)) is not None:
        metrics["code_entropy"] = Metric(entropy, unit="bit", higher_is_better=True)
    result.metrics = metrics | accuracy_metric(result, data.validation)
    return result


def float_copy(network: Network) -> Network:
    """The network with a module of its own, so that nothing done to it reaches the original."""
    fresh = copy.copy(network)
    fresh.module, fresh.metrics = copy.deepcopy(network.module), {}
    return fresh

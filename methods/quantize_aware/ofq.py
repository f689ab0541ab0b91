"""Train a network with rounded weights and activations: StatsQ, LSQ, query-key reparameterisation.

Liu et al., "Oscillation-free quantization for low-bit vision transformers", ICML 2023 (2302.02210).

*Fidelity.* From the paper and its published code (7ed37d1): StatsQ on weights with two bits or more and
LSQ on the first and the last layer (8 bits); activations by LSQ with a step for each token (values: for
each channel) and two learned shifts; the product of query and key as one rounded matrix; steps from one
evaluation of the float network; cross-entropy against labels and teacher, 1 : 1; AdamW whose decay
spares steps, shifts, biases and norms; warm-up and cosine.

Chosen: queries and keys of the plain form are rounded by token over all heads. Two-dimensional inputs
have one step. Filters under StatsQ are rows. A layer behind a GELU, ReLU, SiLU, softplus or sigmoid, or
whose inputs were never below zero, has unsigned codes. Everything is float32.

Defects of the published code, and what is done about them:

1. Its attention modules call their base class and so wrap fresh random projections; only the variants
   with the joint matrix copy the pretrained ones, which favours them. Here every swap keeps the float
   function (all numbers of the block are the original's).
2. The joint form drops the query's bias, which changes the pretrained function: `query_key: exact`.
3. The teacher is in training mode and has gradients: here neither.
4. A row of zeros divides by zero; here it keeps a scale.
5. The state of the oscillation metric is not in checkpoints: here it is.
6. One bit is accepted though the grid is broken: here it is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.fit.batches import standardise
from methods.fit.schedules import cosine, warm_up
from methods.models.networks.network import Network
from methods.quantize_aware.distillation import Teacher
from methods.quantize_aware.modules import masters
from methods.quantize_aware.oscillation import dampening
from methods.quantize_aware.payload import QuantizedNetwork
from methods.quantize_aware.swap import MANY_ZEROS, start, survey, swap
from methods.quantize_aware.training import (
    TRACKED_BITS,
    Data,
    finished,
    float_copy,
    images_of,
    tracker_of,
    train,
    watch,
)
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.quantize_aware.params import OFQ
    from methods.run.context import Context


def apply(
    base: Network | None, data: dict[str, list[Any]], params: OFQ, context: Context
) -> QuantizedNetwork:
    """The base with quantised layers, trained on the first set of the role `train`.

    Metrics: `oscillation/all`, `oscillation/query_key` and `in_band` (shares of the weights of 4 bits or
    fewer, after the last update), `code_entropy`, `deployed_bytes` (codes at their width, the rest at 16
    bits), `macs` of one image, `updates`, and with validation images `validation_accuracy`.

    Raises RetrofitError: no base or one that is no vision network, quantised already, query_key without
    attention, StatsQ on pruned weights, images that do not fit, a loss that is not finite.
    """
    network = float_copy(_checked(base))
    network.module.to(context.device)
    images = images_of(data, network, params, context)
    teacher = _teacher(base, images, params)
    first = images.pixels[images.batches.indices(0).to(images.pixels.device)]
    first = standardise(first, network.mean, network.std)
    plans = survey(
        network.module,
        first,
        params.bits,
        activation_bits=params.activation_bits,
        edge_bits=params.edge_bits,
        weights=params.weights,
        shifts=params.activations == "lsq_plus",
        query_key=params.query_key,
    )
    swap(network.module, plans)
    start(network.module, first)
    steps = params.epochs * images.batches.per_epoch
    tracker = tracker_of(network.module, freezing=params.stabilise == "freeze")
    pruned = _pruned(network.module)

    def threshold(done: int) -> float | None:
        if params.stabilise != "freeze":
            return None
        begin, end = params.freeze_above
        return end + (begin - end) * cosine(done, steps)

    def after_update(done: int) -> None:
        with torch.no_grad():
            for weight, kept in pruned:
                weight.mul_(kept)
        watch(network.module, tracker, threshold(done))

    updates = train(
        network,
        images,
        params,
        context,
        tracker,
        rate=lambda step: rate_at(step, steps, params),
        after_update=after_update,
        teacher=teacher,
        penalty=_penalty(params, steps) if params.stabilise == "dampen" else None,
    )
    facts = {
        "bits": params.bits,
        "weights": params.weights,
        "query_key": params.query_key,
        "scales": "twice the mean magnitude of a row"
        if params.weights == "statsq"
        else "learned (LSQ)",
    }
    keep = float_copy(base) if params.distill else None
    result = finished(network, plans, keep, tracker, updates, images, {"ofq": facts})
    if params.stabilise == "freeze" and len(tracker):
        frozen = sum(int(one.frozen.sum()) for one in tracker.values())
        total = sum(one.frozen.numel() for one in tracker.values())
        result.metrics["oscillation/frozen"] = Metric(frozen / total)
    return result


def rate_at(step: int, steps: int, params: OFQ) -> float:
    """The learning rate of an update: up to the highest, then half a cosine to the last."""
    first = round(params.warm_up * steps)
    if step < first:
        return params.learning_rate * warm_up(step, first)
    floor = params.final_rate / params.learning_rate
    return params.learning_rate * cosine(step - first, max(1, steps - first), floor)


def _checked(base: Any) -> Network:
    if base is None:
        raise RetrofitError("ofq changes a trained network: give the variant a step before it")
    if not isinstance(base, Network):
        raise RetrofitError(f"ofq trains vision networks, not a {type(base).__name__}")
    if base.quantized or isinstance(base, QuantizedNetwork):
        raise RetrofitError(
            "the network is quantised already; ofq starts from float weights (to train on after ofq: anneal)"
        )
    return base


def _teacher(base: Network, images: Data, params: OFQ) -> Teacher | None:
    if not params.distill:
        return None
    return Teacher(float_copy(base), images.pixels, params.augment)


def _pruned(network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """[(weight, bool: not zero)] of pruned weights, whose zeros LSQ keeps: its code 0 is zero."""
    found = []
    for module in network.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            kept = weight.detach() != 0
            if float(kept.float().mean()) < 1 - MANY_ZEROS:
                found.append((weight, kept))
    return found


def _penalty(params: OFQ, steps: int) -> Any:
    """Dampening of all weights of few bits, from 0 up to its weight by a cosine."""

    def penalty(network: nn.Module, step: int) -> Tensor:
        total: Any = 0.0
        for rows, quantizer in masters(network).values():
            if quantizer.bits <= TRACKED_BITS:
                with torch.no_grad():
                    levels = quantizer.levels(rows)
                    ends = [
                        quantizer.value(rows, torch.full_like(rows[:, :1], code))
                        for code in (quantizer.low, quantizer.high)
                    ]
                total = total + dampening(rows, levels, *ends)
        return params.dampening * (1 - cosine(step, steps)) * total

    return penalty

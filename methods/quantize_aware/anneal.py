"""Confidence-guided annealing: a few epochs in which only weights near a threshold move.

Liu et al., "Oscillation-free quantization for low-bit vision transformers" (2302.02210), section 4.3.

*Fidelity.* From the paper and its published code (7ed37d1): after each update the weights that were
further than the boundary from a rounding threshold are put back to what they were, so neither momentum
nor weight decay moves them, and their gradients are dropped before; which ones is asked anew for every
update; the first and the last layer stay free; the rate is constant and low. The optimiser starts
afresh, where the published script takes over the state of the training before.

Defect avoided: with query and key as one matrix, the published quantiser masks a tensor that is
detached right after, so for any boundary its gradient is as before (`product: published_code`). Here
the gradient of the product itself is masked. The factors are not put back: entries of the product share
them, so none can be held.

Control: `boundary: null`, the same epochs at the same low rate without freezing. What annealing gains
must be read against it, since the low rate alone quiets weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.models.networks.network import Network
from methods.quantize_aware.distillation import Teacher
from methods.quantize_aware.modules import WeightQuantizer, masters
from methods.quantize_aware.payload import QuantizedNetwork
from methods.quantize_aware.plans import LayerPlan, Plan
from methods.quantize_aware.training import (
    finished,
    float_copy,
    followed,
    images_of,
    tracker_of,
    train,
    watch,
)
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.quantize_aware.params import Anneal
    from methods.run.context import Context


def apply(
    base: Any, data: dict[str, list[Any]], params: Anneal, context: Context
) -> QuantizedNetwork:
    """The network of `ofq`, trained on. Metrics as there, and `annealed`: the share of the frozen
    layers' weights that were free at the last update.

    Raises RetrofitError: a base that `ofq` did not make, nothing rounded in it, no teacher in it though
    `distill` is asked for, images that do not fit, a loss that is not finite.
    """
    network = float_copy(_checked(base, params))
    network.module.to(context.device)
    images = images_of(data, network, params, context)
    teacher = None
    if params.distill:
        teacher = Teacher(float_copy(base.teacher), images.pixels, params.augment)
    tracker = tracker_of(network.module)
    annealing = None
    if params.boundary is not None:
        annealing = Annealing(network.module, edges(base.plans), params.boundary)

    def after_update(_: int) -> None:
        if annealing is not None:
            annealing.put_back()
        watch(network.module, tracker)

    with masking(network.module, edges(base.plans), params):
        updates = train(
            network,
            images,
            params,
            context,
            tracker,
            rate=lambda _: params.learning_rate,
            after_update=after_update,
            teacher=teacher,
            keeping={"annealing": annealing} if annealing is not None else None,
        )
    facts = {"anneal": {"boundary": params.boundary, "epochs": params.epochs}}
    result = finished(network, base.plans, base.teacher, tracker, updates, images, facts)
    if annealing is not None:
        result.metrics["annealed"] = Metric(annealing.free)
    return result


def _checked(base: Any, params: Anneal) -> Network:
    if not isinstance(base, QuantizedNetwork):
        raise RetrofitError("anneal goes on after ofq: give the variant that step before it")
    if not followed(base.module):
        raise RetrofitError("anneal: no weight of the network has 4 bits or fewer")
    if params.distill and base.teacher is None:
        raise RetrofitError(
            "anneal: distill wants the float teacher, and ofq was told distill: false; say so here too"
        )
    return base


def edges(plans: dict[str, Plan]) -> set[str]:
    """Names of the first and the last layer, which are never frozen."""
    layers = [name for name, plan in plans.items() if isinstance(plan, LayerPlan)]
    return {layers[0], layers[-1]} if layers else set()


@contextmanager
def masking(network: nn.Module, free: set[str], params: Anneal) -> Iterator[None]:
    """Gradients beyond the boundary dropped inside; nothing without a boundary."""
    chosen = [
        quantizer
        for name, (_, quantizer) in masters(network).items()
        if name not in free and not (params.product == "published_code" and is_product(name))
    ]
    for quantizer in chosen:
        quantizer.band = params.boundary
    try:
        yield
    finally:
        for quantizer in chosen:
            quantizer.band = None


def is_product(name: str) -> bool:
    """Whether a rounded weight is the product of query and key."""
    return name.rpartition(".")[2] == "product_layer"


class Annealing:
    """Puts weights back that were not near a threshold before an update.

    Which ones those are follows from the weights before the update, so nothing but them is kept, and
    after a kill they are the network's own.
    """

    def __init__(self, network: nn.Module, free: set[str], boundary: float):
        self.network, self.boundary, self.not_frozen = network, boundary, free
        self.free = 0.0
        self._remember()

    def _weights(self) -> Iterator[tuple[str, Tensor, WeightQuantizer]]:
        for name, (rows, quantizer) in masters(self.network).items():
            if name not in self.not_frozen and not is_product(name):
                yield name, rows, quantizer

    @torch.no_grad()
    def _remember(self) -> None:
        self._before = {
            name: (rows.clone(), quantizer.near(rows, self.boundary))
            for name, rows, quantizer in self._weights()
        }

    @torch.no_grad()
    def put_back(self) -> None:
        """After an update: keep it only where a weight was near a threshold."""
        free = total = 0
        for name, rows, _ in self._weights():
            before, near = self._before[name]
            rows.copy_(torch.where(near, rows, before))
            free, total = free + int(near.sum()), total + near.numel()
        self.free = free / total
        self._remember()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing that the network does not hold, but the share."""
        return {}, {"free": self.free}

    def restore_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from the network as it was restored."""
        self.free = state["free"]
        self._remember()

"""Layers that compute with rounded weights and inputs while they keep float ones to train.

The float tensors keep their names, so a float state dict fits; what is added has names of its own:

    NAME.{weight, bias}    NAME.input_quantizer.{step, before, after}    NAME.weight_quantizer.step
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.export.packed import PackedWeight
from methods.quantize_aware import quantizers
from methods.quantize_aware.plans import InputPlan, LayerPlan, Weights
from methods.study.errors import RetrofitError


class InputQuantizer(nn.Module):
    """LSQ with a learned shift on either side (LSQ+): Q(x + before) + after.

    The steps are not known before :func:`start` has seen a batch. ``features`` 0: no shifts.
    """

    def __init__(self, plan: InputPlan):
        super().__init__()
        self.plan = plan
        self.step = nn.Parameter(torch.ones(plan.size))
        self.before = self.after = None
        if plan.features:
            self.before = nn.Parameter(torch.zeros(plan.features))
            self.after = nn.Parameter(torch.zeros(plan.features))
        self.starting = False

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same. Raises RetrofitError where the number of tokens is another."""
        plan = self.plan
        if self.before is not None:
            x = x + self.before
        shape = x.shape
        if plan.split > 1:
            x = x.reshape(shape[0], -1, shape[-1] // plan.split)
        if plan.axis is not None and x.shape[plan.axis] != plan.size:
            raise RetrofitError(
                f"there are {plan.size} steps, one for each token or channel, and {x.shape[plan.axis]} of those "
                "came in: a network quantised by token takes images of the size it was trained with"
            )
        if self.starting:
            with torch.no_grad():
                step = quantizers.lsq_initial_step(x, plan.bits, plan.signed, plan.axis)
                self.step.copy_(step.clamp(min=quantizers.SMALLEST_STEP))
        x = quantizers.lsq(x, self.step, plan.bits, plan.signed, plan.axis).view(shape)
        return x if self.after is None else x + self.after

    def extra_repr(self) -> str:
        """Bits, signs, and how many steps."""
        return f"bits={self.plan.bits}, signed={self.plan.signed}, steps={self.plan.size}"


class WeightQuantizer(nn.Module, ABC):
    """From a weight `[out, …]` to the same on its grid; one scale for each row.

    band: while it is set, the gradient of weights that are further than so many steps from a
    threshold is dropped (OFQ's annealing).
    """

    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits
        self.low, self.high = quantizers.code_range(bits)
        self.band: float | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """The rounded weight, of the same shape."""
        rows = weight.flatten(1)
        if self.band is not None and rows.requires_grad:
            rows = quantizers.masked_gradient(rows, self.near(rows, self.band))
        return self.levels(rows).view_as(weight)

    @torch.no_grad()
    def near(self, rows: Tensor, boundary: float) -> Tensor:
        """Bool `[out, in]`: within so many steps of where the code changes."""
        return quantizers.near_threshold(self.position(rows), self.low, self.high, boundary)

    @torch.no_grad()
    def codes(self, rows: Tensor) -> Tensor:
        """Integer codes as floats, `[out, in]`."""
        return self.position(rows).round_().clamp_(self.low, self.high)

    @abstractmethod
    def levels(self, rows: Tensor) -> Tensor:
        """The rounded weight `[out, in]` with its gradient."""

    @abstractmethod
    def position(self, rows: Tensor) -> Tensor:
        """What is rounded to a code, `[out, in]`."""

    @abstractmethod
    def value(self, rows: Tensor, codes: Tensor) -> Tensor:
        """The number that a code stands for with the scale of these rows."""

    @abstractmethod
    def packed(self, rows: Tensor) -> PackedWeight:
        """Codes and scales of a weight `[out, in]`."""

    def _packed(self, kind: type[PackedWeight], rows: Tensor, scale: Tensor) -> PackedWeight:
        codes = (self.codes(rows) - self.low).to(torch.uint8).cpu()
        scale = scale.detach().reshape(-1, 1).float().cpu().contiguous()
        zero = torch.full_like(scale, -self.low, dtype=torch.int32)
        return kind(codes, scale, zero, self.bits, -1, True)

    def extra_repr(self) -> str:
        """Bits."""
        return f"bits={self.bits}"


class MidRiseWeight(PackedWeight):
    """Codes between whose middle two zero lies: `w = (code - zero + 1/2) * scale`."""

    def dequantize(self) -> Tensor:
        """float32 `[out, in]`."""
        return (self.codes.float() - self.zero + 0.5) * self.scale


class StatsQuantizer(WeightQuantizer):
    """StatsQ: the scale follows from the weight, nothing is learned."""

    def levels(self, rows: Tensor) -> Tensor:
        """See the base class."""
        return quantizers.statsq(rows, self.bits)

    def position(self, rows: Tensor) -> Tensor:
        """See the base class."""
        return quantizers.statsq_position(rows, quantizers.statsq_scale(rows), self.bits)

    def value(self, rows: Tensor, codes: Tensor) -> Tensor:
        """See the base class."""
        return quantizers.statsq_levels(codes, quantizers.statsq_scale(rows), self.bits)

    def packed(self, rows: Tensor) -> PackedWeight:
        """See the base class."""
        # n is a power of two, so the scale of a step is exact.
        return self._packed(MidRiseWeight, rows, quantizers.statsq_scale(rows) / -self.low)


class LearnedStepQuantizer(WeightQuantizer):
    """LSQ with one learned step for each row, begun from a float weight."""

    def __init__(self, bits: int, weight: Tensor):
        super().__init__(bits)
        rows = weight.detach().flatten(1).float()
        step = quantizers.lsq_initial_step(rows, bits, True, 0)
        self.step = nn.Parameter(step.clamp(min=quantizers.SMALLEST_STEP))

    @property
    def _wide(self) -> Tensor:
        return self.step.detach().clamp(min=quantizers.SMALLEST_STEP)[:, None]

    def levels(self, rows: Tensor) -> Tensor:
        """See the base class."""
        return quantizers.lsq(rows, self.step, self.bits, True, 0)

    def position(self, rows: Tensor) -> Tensor:
        """See the base class."""
        return rows / self._wide

    def value(self, rows: Tensor, codes: Tensor) -> Tensor:
        """See the base class."""
        return codes * self._wide

    def packed(self, rows: Tensor) -> PackedWeight:
        """See the base class."""
        return self._packed(PackedWeight, rows, self._wide)


def weight_quantizer(weights: Weights, bits: int | None, weight: Tensor) -> nn.Module:
    """The quantiser of a weight `[out, …]`; an identity without bits or on its grid already."""
    if bits is None or weights == "integer":
        return nn.Identity()
    if weights == "statsq":
        return StatsQuantizer(bits)
    return LearnedStepQuantizer(bits, weight)


def input_quantizer(plan: InputPlan | None) -> nn.Module:
    """The quantiser of an activation, or an identity."""
    return nn.Identity() if plan is None else InputQuantizer(plan)


class Holder(Protocol):
    """A module with rounded weights."""

    def masters(self) -> dict[str, tuple[Tensor, WeightQuantizer]]:
        """`{name inside the module: (float weight [out, in], its quantiser)}`; "" is the module."""
        ...


class QuantizedLinear(nn.Linear):
    """A linear layer with quantised weight and input."""

    def __init__(self, layer: nn.Linear, plan: LayerPlan | None):
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        _take(self, layer, plan)

    def forward(self, x: Tensor) -> Tensor:
        """[…, in] to […, out]."""
        weight = self.weight_quantizer(self.weight)
        return functional.linear(self.input_quantizer(x), weight, self.bias)

    def masters(self) -> dict[str, tuple[Tensor, WeightQuantizer]]:
        """See :class:`Holder`."""
        return _own_weight(self)


class QuantizedConv2d(nn.Conv2d):
    """A convolution with quantised filters and input; a filter is a row."""

    def __init__(self, layer: nn.Conv2d, plan: LayerPlan | None):
        nn.Module.__init__(self)
        # Kernel, stride, padding, …: what is neither a tensor nor a hook.
        settings = {k: v for k, v in vars(layer).items() if not k.startswith("_")}
        padding = {"_reversed_padding_repeated_twice": layer._reversed_padding_repeated_twice}
        self.__dict__.update(settings | padding)
        _take(self, layer, plan)

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, out, h', w']."""
        weight = self.weight_quantizer(self.weight)
        return self._conv_forward(self.input_quantizer(x), weight, self.bias)

    def masters(self) -> dict[str, tuple[Tensor, WeightQuantizer]]:
        """See :class:`Holder`."""
        return _own_weight(self)


def _take(module: nn.Module, layer: nn.Module, plan: LayerPlan | None) -> None:
    """The float layer's own parameters, so that an optimiser made before stays valid."""
    module.weight, module.bias = layer.weight, layer.bias
    weights, bits, received = (plan.weights, plan.bits, plan.input) if plan else ("lsq", None, None)
    module.weight_quantizer = weight_quantizer(weights, bits, layer.weight)
    module.input_quantizer = input_quantizer(received)
    module.train(layer.training)


def _own_weight(module: nn.Module) -> dict[str, tuple[Tensor, WeightQuantizer]]:
    if not isinstance(module.weight_quantizer, WeightQuantizer):
        return {}
    return {"": (module.weight.flatten(1), module.weight_quantizer)}


@torch.no_grad()
def deploy_layers(network: nn.Module) -> nn.Module:
    """Put every rounded weight in the place of its float one, in place: nothing is left to round.

    What the network computes stays the same to the bit. Returns it.
    """
    for module in list(network.modules()):
        if isinstance(module, QuantizedLinear | QuantizedConv2d):
            module.weight = nn.Parameter(module.weight_quantizer(module.weight).clone())
            module.weight_quantizer = nn.Identity()
        elif hasattr(module, "deploy"):
            module.deploy()
    return network


def masters(network: nn.Module) -> dict[str, tuple[Tensor, WeightQuantizer]]:
    """`{name: (float weight [out, in], its quantiser)}` of all rounded weights of a network.

    A weight that is computed (the product of query and key) has its graph, so call this anew after an
    update, and without gradients where none are wanted.
    """
    found = {}
    for name, module in network.named_modules():
        if hasattr(module, "masters"):
            for part, master in module.masters().items():
                found[".".join(filter(None, (name, part)))] = master
    return found

"""One verb: put quantised modules in the place of float ones, in any `torch.nn.Module`.

Which layers, what their inputs look like and what follows from it is found by running the float network
once (:func:`survey`) and kept as plans; a plan alone builds the same modules again (:func:`swap`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.quantize_aware.attention import (
    QuantizedAttention,
    heads_of,
    layout_of,
    quantized_attention,
)
from methods.quantize_aware.modules import InputQuantizer, QuantizedConv2d, QuantizedLinear
from methods.quantize_aware.plans import (
    AttentionPlan,
    InputPlan,
    LayerPlan,
    Plan,
    QueryKey,
    Weights,
)
from methods.study.errors import RetrofitError

FLOAT_BITS = 32
NOT_BELOW_ZERO = -1e-5
"""Activations whose least value is above this are taken to have no sign."""
UNSIGNED_AFTER = (nn.GELU, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Softplus, nn.Sigmoid)
"""What comes out of these has unsigned codes, though some of them go a little below zero."""
SWAPPED = {nn.Linear: QuantizedLinear, nn.Conv2d: QuantizedConv2d}
MANY_ZEROS = 0.01
"""A share of exact zeros above this in a weight means that it was pruned."""


def quantize_module(
    module: nn.Module,
    example: Tensor,
    bits: int = 2,
    *,
    activation_bits: int | None = None,
    edge_bits: int = 8,
    weights: Weights = "statsq",
    shifts: bool = True,
    query_key: QueryKey = "plain",
) -> nn.Module:
    """Quantise weights and inputs of every linear layer, convolution and self-attention, in place.

    example: a batch of inputs, from which the activations' steps start. bits: of weights, and of
    activations unless those have their own; 32 changes the form of attention and rounds nothing.
    edge_bits: of the first and the last layer. Returns ``module``; train it as any other.

    Raises RetrofitError: nothing to quantise, quantised already, query_key without attention, a pruned
    weight under StatsQ, attention that cannot be swapped.
    """
    plans = survey(
        module,
        example,
        bits,
        activation_bits=activation_bits,
        edge_bits=edge_bits,
        weights=weights,
        shifts=shifts,
        query_key=query_key,
    )
    swap(module, plans)
    start(module, example)
    return module


@dataclass
class _Seen:
    """What the float network showed of one module."""

    module: nn.Module
    shape: tuple[int, ...]
    unsigned: bool


def survey(
    module: nn.Module,
    example: Tensor,
    bits: int,
    *,
    activation_bits: int | None = None,
    edge_bits: int = 8,
    weights: Weights = "statsq",
    shifts: bool = True,
    query_key: QueryKey = "plain",
) -> dict[str, Plan]:
    """Plans by module name, in the order of computing. See :func:`quantize_module`."""
    _check_bits(bits, activation_bits, edge_bits, weights)
    seen = _run(module, example)
    attention = [name for name, one in seen.items() if layout_of(one.module)]
    layers = [name for name in seen if name not in attention]
    if not seen:
        raise RetrofitError(
            f"{type(module).__name__} has no linear layer, convolution or attention to quantise"
        )
    if query_key != "plain" and not attention:
        raise RetrofitError(
            f"query_key {query_key} joins query and key, and {type(module).__name__} has no attention; "
            "use query_key: plain"
        )
    if weights == "statsq" and bits < FLOAT_BITS:
        _refuse_pruned({name: seen[name].module for name in seen})
    edges = {layers[0], layers[-1]} if layers else set()
    received = bits if activation_bits is None else activation_bits
    plans: dict[str, Plan] = {}
    for name, one in seen.items():
        if name in attention:
            plans[name] = AttentionPlan(
                layout_of(one.module),
                query_key,
                weights,
                None if bits == FLOAT_BITS else bits,
                None if received == FLOAT_BITS else received,
                shifts,
                tokens=one.shape[1],
                width=one.shape[2],
                heads=heads_of(one.module),
            )
        elif bits < FLOAT_BITS:
            edge = name in edges
            width = edge_bits if edge else received
            plans[name] = LayerPlan(
                "lsq" if edge else weights,
                edge_bits if edge else bits,
                None if received == FLOAT_BITS else _input_plan(one, width, edge, shifts),
            )
    return plans


def _check_bits(bits: int, activation_bits: int | None, edge_bits: int, weights: Weights) -> None:
    for label, value in (("bits", bits), ("activation_bits", activation_bits)):
        if value is not None and value != FLOAT_BITS and not 2 <= value <= 8:
            why = "; one bit breaks the grid" if value == 1 else ""
            raise RetrofitError(f"{label} {value}: allowed are 2 to 8, or 32 for none{why}")
    if bits == FLOAT_BITS and activation_bits not in (None, FLOAT_BITS):
        raise RetrofitError("bits 32 rounds nothing: leave out activation_bits")
    if not 2 <= edge_bits <= 8:
        raise RetrofitError(f"edge_bits {edge_bits}: allowed are 2 to 8")
    if weights not in ("statsq", "lsq"):
        raise RetrofitError(f"weights '{weights}': allowed are statsq, lsq")


@torch.no_grad()
def _run(module: nn.Module, example: Tensor) -> dict[str, _Seen]:
    """Every module that can be swapped, in the order in which one evaluation calls it."""
    names, inside = {}, set()
    for name, part in module.named_modules():
        if isinstance(part, QuantizedAttention | QuantizedLinear | QuantizedConv2d):
            raise RetrofitError(f"the network is quantised already: {name} is")
        if isinstance(part, nn.TransformerEncoderLayer):
            raise RetrofitError(
                f"{name}: torch's encoder layer reads its attention's tensors itself, so that cannot be swapped"
            )
        if layout_of(part):
            inside.update(id(child) for child in part.modules() if child is not part)
            names[part] = name
        elif type(part) in SWAPPED and id(part) not in inside:
            names[part] = name
    seen: dict[str, _Seen] = {}
    outputs: dict[tuple, Tensor] = {}  # kept, so that no memory is used twice

    def place(x: Tensor) -> tuple:
        return x.data_ptr(), tuple(x.shape)

    def enters(part: nn.Module, args: tuple) -> None:
        x = args[0]
        unsigned = place(x) in outputs or bool(x.min() >= NOT_BELOW_ZERO)
        if names[part] in seen:
            raise RetrofitError(f"{names[part]} is called more than once in one evaluation")
        seen[names[part]] = _Seen(part, tuple(x.shape), unsigned)

    def leaves(_: nn.Module, __: tuple, out: Tensor) -> None:
        outputs[place(out)] = out

    hooks = [part.register_forward_pre_hook(enters) for part in names]
    hooks += [
        part.register_forward_hook(leaves)
        for part in module.modules()
        if isinstance(part, UNSIGNED_AFTER)
    ]
    with _evaluating(module):
        try:
            module(example)
        finally:
            for hook in hooks:
                hook.remove()
    return seen


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _input_plan(one: _Seen, bits: int, edge: bool, shifts: bool) -> InputPlan:
    signed, shape = not one.unsigned, one.shape
    if isinstance(one.module, nn.Conv2d):
        return InputPlan(bits, signed, 1, shape[1])
    if edge:
        return InputPlan(bits, signed, None, 1)
    features = shape[-1] if shifts else 0
    if len(shape) == 3:
        return InputPlan(bits, signed, -2, shape[-2], features)
    return InputPlan(bits, signed, None, 1, features)


def _refuse_pruned(modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                share = float((parameter == 0).float().mean())
                if share > MANY_ZEROS:
                    raise RetrofitError(
                        f"{share:.0%} of the weights of {name} are zero, and StatsQ has no level at zero: pruned "
                        "weights would come back. Use weights: lsq, which has one"
                    )


def swap(module: nn.Module, plans: Mapping[str, Plan]) -> nn.Module:
    """Put the modules of the plans in place. Raises RetrofitError where a name is not there."""
    for name, plan in plans.items():
        try:
            old = module.get_submodule(name)
        except AttributeError:
            raise RetrofitError(
                f"the plan names {name}, and the network has no such module"
            ) from None
        if isinstance(plan, AttentionPlan):
            new = quantized_attention(old, plan)
        else:
            new = SWAPPED[type(old)](old, plan)
        if not name:
            raise RetrofitError("the network is itself one layer: wrap it in nn.Sequential")
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, new)
    return module


@torch.no_grad()
def start(module: nn.Module, example: Tensor) -> None:
    """Set the activations' steps from one batch, each quantiser seeing what the ones before it give."""
    steps = [part for part in module.modules() if isinstance(part, InputQuantizer)]
    for part in steps:
        part.starting = True
    with _evaluating(module):
        try:
            module(example)
        finally:
            for part in steps:
                part.starting = False


def left_float(module: nn.Module) -> dict[str, Any]:
    """`{name: type}` of layers with weights that the swap does not know."""
    known = (QuantizedAttention, QuantizedLinear, QuantizedConv2d)
    inside = {id(c) for m in module.modules() if isinstance(m, known) for c in m.modules()}
    return {
        name: type(part).__name__
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.modules.conv._ConvNd) and id(part) not in inside
    }

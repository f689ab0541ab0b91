"""Learning the rounding of one unit, a block or a layer, so that its outputs stay what they were."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.quantize.rounding import decay
from methods.quantize.rounding_loss import LOSSES, channels_last
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.quantize.learned_params import LearnedRounding
    from methods.quantize.rounding_variables import Variable

Run = Callable[[Tensor, dict[str, Tensor] | None], Tensor]


@dataclass
class Features:
    """What enters a unit and what must come out, `[n, …]` each.

    fp: inputs in the float network. quantised: in the network as quantised so far. wanted: the float
    unit's outputs for `fp`. weight: `[channels]`, for the Fisher loss.
    """

    fp: Tensor
    quantised: Tensor
    wanted: Tensor
    weight: Tensor | None = None


@dataclass
class Learned:
    """Loss on all calibration data: rounded to nearest, as learned, and which of them was kept."""

    first: float
    last: float
    kept: bool


class SignSGD(torch.optim.Optimizer):
    """p -= lr sign(g): the optimiser of SignRound, whose steps do not know the loss's scale."""

    def __init__(self, params, lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(p.grad.sign_(), alpha=group["lr"])


def optimizer_of(variables: dict[str, Variable], params: LearnedRounding) -> torch.optim.Optimizer:
    """The optimiser that a study asks for, with rates for roundings and ranges."""
    groups = [
        {"params": [p for v in variables.values() for p in v.rounding_parameters()]},
        {"params": [p for v in variables.values() for p in v.range_parameters()]},
    ]
    rates = (params.rate, params.range_learning_rate or params.rate)
    groups = [g | {"lr": r, "base": r} for g, r in zip(groups, rates, strict=True) if g["params"]]
    kinds = {
        "adam": lambda g: torch.optim.Adam(g),
        "adamw": lambda g: torch.optim.AdamW(g),
        "sgd": lambda g: torch.optim.SGD(g),
        "sgd_momentum": lambda g: torch.optim.SGD(g, momentum=0.9),
        "signsgd": lambda g: SignSGD(g, params.rate),
    }
    return kinds[params.optimizer](groups)


def reconstruct(
    run: Run,
    variables: dict[str, Variable],
    features: Features,
    params: LearnedRounding,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Learned:
    """Learn the variables in place.

    run: the unit as a function of inputs and weights by name (None: its float weights). variables:
    by the name of the weight that they stand for. Where the learned rounding does not beat the one
    that it started from, on all calibration data, the variables are put back.
    Raises RetrofitError when a loss is not finite.
    """
    loss = LOSSES[params.loss]
    rows = len(features.fp)
    batch = min(params.batch, rows)
    before = evaluate(run, variables, features, params, dtype)
    if not math.isfinite(before):
        raise RetrofitError(
            "learned rounding: the loss of a block rounded to nearest is not finite; "
            "try compute_dtype: float32"
        )
    start = {n: [p.detach().clone() for p in v.parameters()] for n, v in variables.items()}
    optimizer = optimizer_of(variables, params)
    order = torch.randperm(rows, generator=generator)
    for step in range(params.iterations):
        at = torch.arange(step * batch, (step + 1) * batch) % rows
        if step and int(at[0]) < batch:
            order = torch.randperm(rows, generator=generator)
        x, wanted = drawn(run, features, order[at], params, generator)
        weights = {n: v.weight().to(dtype).view(v.shape) for n, v in variables.items()}
        found = run(x, weights)
        value = loss(*comparable(found, wanted), features.weight)
        for variable in variables.values():
            more = variable.regulariser(step, params.iterations)
            if more is not None:
                value = value + more
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * decay(step, params.iterations, params.decay)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for variable in variables.values():
                variable.project()
    after = evaluate(run, variables, features, params, dtype)
    # Not `after > before`: a NaN must not be kept either.
    kept = after <= before
    if not kept:
        with torch.no_grad():
            for name, variable in variables.items():
                for p, old in zip(variable.parameters(), start[name], strict=True):
                    p.copy_(old)
    return Learned(before, after, kept)


def comparable(found: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Both outputs in float32 with channels last."""
    if found.dim() == 4:
        channels = found.shape[1]
        found, wanted = (channels_last(t, channels) for t in (found, wanted))
    return found.float(), wanted.float()


@torch.no_grad()
def evaluate(
    run: Run,
    variables: dict[str, Variable],
    features: Features,
    params: LearnedRounding,
    dtype: torch.dtype,
) -> float:
    """The loss of the hard rounding on all calibration data, fed with what deployment feeds."""
    weights = {n: v.weight(soft=False).to(dtype).view(v.shape) for n, v in variables.items()}
    inputs = features.fp if params.inputs == "fp" else features.quantised
    total, rows = 0.0, len(inputs)
    for start in range(0, rows, params.batch):
        part = slice(start, start + params.batch)
        found = run(inputs[part], weights)
        value = LOSSES[params.loss](*comparable(found, features.wanted[part]), features.weight)
        total += float(value) * len(inputs[part])
    return total / rows


@torch.no_grad()
def drawn(
    run: Run,
    features: Features,
    rows: Tensor,
    params: LearnedRounding,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Inputs and wanted outputs of one update, augmented where the study asks for it."""
    fp, quantised = features.fp[rows], features.quantised[rows]
    wanted = features.wanted[rows]
    if params.augmentation != "none":
        change = augmentation(fp, params.augmentation, params.augmentation_strength, generator)
        fp, quantised = change(fp), change(quantised)
        wanted = run(fp, None)
    if params.inputs == "fp":
        return fp, wanted
    if params.inputs == "quantised":
        return quantised, wanted
    chosen = torch.rand(fp.shape, generator=generator) < params.drop_probability
    return torch.where(chosen.to(fp.device), quantised, fp), wanted


def augmentation(
    x: Tensor, kind: str, strength: float, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """One random change, to be made alike to float and quantised features `[b, …]`.

    gaussian: plus noise of `strength` standard deviations. mixup: (1 - strength) of itself and
    strength of another. token_drop: a share `strength` of positions is zero.
    """
    if kind == "gaussian":
        noise = torch.randn(x.shape, generator=generator).to(x) * x.float().std().to(x) * strength
        return lambda t: t + noise
    if kind == "mixup":
        other = torch.randperm(len(x), generator=generator)
        return lambda t: (1 - strength) * t + strength * t[other]
    shape = (x.shape[0], 1, *x.shape[2:]) if x.dim() == 4 else (*x.shape[:2], 1)
    if x.dim() == 2:
        shape = tuple(x.shape)
    kept = (torch.rand(shape, generator=generator) >= strength).to(x)
    return lambda t: t * kept

"""One verb: a network and a recipe give a sparse network of the same FLOPs, and the plan that says so.

    net, plan = transform(model, example, Recipe("wide", 0.75))

Fidelity (Sparse-IFT, arXiv 2303.11525, with CerebrasResearch/Sparse-IFT 487c284)
---------------------------------------------------------------------------------
Follows the paper: the four families, their sizes, and uniform, ER or ERK sparsity over layers; first
layer, last layer and everything without a product stay dense.

Chosen: masks have exact counts, solved so that FLOPs are equal and not nearly so. With ``uniform``,
each layer's stand-in has as many non-zeros as the layer had weights (Parallel, Factorized, Doped).
For Wide, where the ends become dearer too, one sparsity is solved in closed form for the whole
network. With ER and ERK the network as a whole keeps its FLOPs.

Differs from the published code: layers are told by their place in the forward pass, not by their
shape (there every weight with a side equal to the number of classes stays dense); Doped's U and V
stay dense, as the paper has them; Parallel keeps the normalisation that followed the layer, after the
sum of its own; FLOPs are counted by this project's counter, so element-wise work is free in both.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch._dynamo  # what the counter's first count imports; here, so that forked jobs have it
from torch import nn

from methods.measure.cost import Cost, count
from methods.prune import sizes
from methods.prune.allocation import DISTRIBUTIONS, Distribution, densities, exact_counts
from methods.prune.layers import ACTIVATIONS, Activation, installed
from methods.prune.layers import sizes as layer_sizes
from methods.prune.sparse_training import attach
from methods.prune.tracing import LAYERS, Call, Example, arguments, evaluating, trace
from methods.prune.widening import widen
from methods.study.errors import RetrofitError, choices

FAMILIES = ("dense", "wide", "parallel", "factorized", "doped")


@dataclass(frozen=True)
class Recipe:
    """What to make of a network. Raises RetrofitError for values that cannot be.

    sparsity: s in [0, 1); Wide and Parallel need 1/(1-s) to be whole, or ``resolve`` to take the
    nearest such s. only, exempt: patterns of layer names. ends: the first and last layer too.
    activation: between the products of Factorized and after the branches of Parallel.
    """

    family: sizes.Family = "wide"
    sparsity: float = 0.75
    distribution: Distribution = "uniform"
    activation: Activation = "default"
    only: tuple[str, ...] = ("*",)
    exempt: tuple[str, ...] = ()
    ends: bool = False
    resolve: bool = False

    def __post_init__(self):
        for name, value, allowed in (
            ("family", self.family, FAMILIES),
            ("distribution", self.distribution, DISTRIBUTIONS),
            ("activation", self.activation, ACTIVATIONS),
        ):
            if value not in allowed:
                raise RetrofitError(f"{name} '{value}': {choices(value, allowed)}")
        sizes.check_sparsity(self.sparsity)
        if self.family == "dense" and self.sparsity:
            raise RetrofitError(f"family 'dense' has no sparsity, found {self.sparsity}")
        if self.family in ("wide", "parallel"):
            if self.resolve:
                object.__setattr__(self, "sparsity", sizes.resolved(self.sparsity))
            sizes.branches(self.sparsity)


@dataclass
class Row:
    """One layer of a plan; FLOPs are 2 x MACs of one example."""

    name: str
    shape: tuple[int, ...]
    becomes: str
    flops: int
    new_flops: int = 0
    weights: int = 0
    nonzeros: int = 0
    exempt: str = ""
    """Why the layer stays dense; empty for those that do not."""


@dataclass
class Plan:
    """What a transformation does to each layer, and what it costs; prints as a table."""

    recipe: Recipe
    rows: list[Row]
    before: Cost
    after: Cost

    @property
    def ratio(self) -> float:
        """FLOPs after over FLOPs before, zeros not counted."""
        return self.after.effective_macs / self.before.macs

    @property
    def masked(self) -> bool:
        """Does any layer have a mask?"""
        return any(not row.exempt for row in self.rows)

    @property
    def sparsity(self) -> float:
        """Share of the masked layers' weights that the masks rule out."""
        weights = sum(row.weights for row in self.rows if not row.exempt)
        return 1 - self.kept / max(1, weights)

    @property
    def kept(self) -> int:
        """Weights that transformed layers keep."""
        return sum(row.nonzeros for row in self.rows if not row.exempt)

    def __str__(self) -> str:
        head = (
            "layer",
            "shape",
            "becomes",
            "FLOPs",
            "new FLOPs",
            "non-zeros",
            "stays dense because",
        )
        lines = [head]
        for row in self.rows:
            kept = f"{row.nonzeros:,} of {row.weights:,}"
            shape = "x".join(map(str, row.shape))
            flops = (f"{row.flops:,}", f"{row.new_flops:,}")
            lines.append((row.name, shape, row.becomes, *flops, kept, row.exempt))
        before, after = 2 * self.before.macs, 2 * self.after.effective_macs
        kept = f"{self.after.nonzeros:,} of {self.after.parameters:,}"
        lines.append(("all", "", "", f"{before:,}", f"{after:,}", kept, f"x {self.ratio:.6f}"))
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if 3 <= i <= 5 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


def transform(
    model: nn.Module,
    example: Example,
    recipe: Recipe,
    *,
    seed: int = 0,
    start: Literal["random", "full"] = "random",
    wide: nn.Module | None = None,
) -> tuple[nn.Module, Plan]:
    """A sparse network with the FLOPs of ``model`` (which stays as it is), and its plan.

    example: one input, on the model's device; its size decides what layers cost. start: `random`
    masks, or `full` ones for gradual pruning. wide: for the family `wide`, the wider network where
    running cannot find it (same layer names). New weights come from torch's default generator, masks
    from ``seed``. Raises RetrofitError.
    """
    made, counts, found = _prepared(model, example, recipe, wide)
    attach(made, counts, seed, start)
    return made, found


def plan(model: nn.Module, example: Example, recipe: Recipe, wide: nn.Module | None = None) -> Plan:
    """The plan alone: a dry run of :func:`transform`, which draws no masks."""
    return _prepared(model, example, recipe, wide)[2]


def _prepared(
    model: nn.Module, example: Example, recipe: Recipe, wide: nn.Module | None
) -> tuple[nn.Module, dict[str, int], Plan]:
    """The larger network, not masked yet, the weights that its masks are to keep, and the plan."""
    before = counted(model, example)
    calls = trace(model, example)
    reasons = _reasons(model, calls, recipe)
    chosen = [call for call in calls if not reasons[call.name]]
    if recipe.family == "wide":
        made = _wide(model, example, recipe, calls, wide)
        stands = {call.name: [call.name] for call in chosen}
    elif wide is None:
        made, stands = _swapped(model, recipe, chosen)
    else:
        raise RetrofitError(f"a wide network is given, and the family is {recipe.family}")
    positions = {call.name: call.positions for call in trace(made, example)}
    counts = _counts(made, example, recipe, chosen, stands, positions, before)
    with at_counts(made, counts):
        after = counted(made, example)
        rows = [_row(call, made, reasons[call.name], positions) for call in calls]
    return made, counts, Plan(recipe, rows, before, after)


def counted(model: nn.Module, example: Example) -> Cost:
    """The cost of one pass over the example in evaluation mode."""
    positional, keywords = arguments(example)
    with evaluating(model):
        return count(model, *positional, **keywords)


@contextmanager
def at_counts(model: nn.Module, counts: Mapping[str, int]) -> Iterator[None]:
    """Inside, the named layers have exactly so many non-zero weights, wherever those are."""
    layers = {name: model.get_submodule(name) for name in counts}
    kept = {name: layer.weight.data for name, layer in layers.items()}
    for name, layer in layers.items():
        layer.weight.data = torch.zeros_like(
            layer.weight.data, memory_format=torch.contiguous_format
        )
        layer.weight.data.view(-1)[: counts[name]] = 1
    try:
        yield
    finally:
        for name, layer in layers.items():
            layer.weight.data = kept[name]


def _reasons(model: nn.Module, calls: list[Call], recipe: Recipe) -> dict[str, str]:
    """{layer: why it stays dense, or nothing}; raises RetrofitError for patterns that cannot be meant."""
    names = [call.name for call in calls]
    for pattern in (*recipe.only, *recipe.exempt):
        if not fnmatch.filter(names, pattern):
            raise RetrofitError(
                f"'{pattern}' is no layer of {type(model).__name__}; {choices(pattern, names)}"
            )
    tied = _tied(model)
    found = {}
    for call in calls:
        end = "first layer" if call.first else "last layer" if call.last else ""
        if end and not recipe.ends and call.name in recipe.only:
            raise RetrofitError(
                f"{call.name} is the {end} of {type(model).__name__}, which stays dense; "
                "set `ends` to mask it all the same"
            )
        layer, exact = call.layer, recipe.family in ("parallel", "factorized", "doped")
        if not call.positions:
            reason = "never called by itself"
        elif _matches(call.name, recipe.exempt):
            reason = "exempt"
        elif not _matches(call.name, recipe.only):
            reason = "not chosen"
        elif end and not recipe.ends:
            reason = end
        elif call.name in tied:
            reason = f"shares its weight with {tied[call.name]}"
        elif not isinstance(layer, nn.Linear | nn.Conv2d):
            reason = f"{type(layer).__name__} is not supported"
        elif exact and type(layer) not in (nn.Linear, nn.Conv2d):
            reason = f"{type(layer).__name__} may do more than its base class"
        elif getattr(layer, "groups", 1) > 1:
            reason = "grouped convolution"
        else:
            reason = ""
        found[call.name] = reason if recipe.family != "dense" else "family dense"
    return found


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _tied(model: nn.Module) -> dict[str, str]:
    """{layer: another module with the same weight}."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    shared = [names for names in owners.values() if len(names) > 1]
    return {a: b for names in shared for a in names for b in names if a != b}


def _wide(
    model: nn.Module, example: Example, recipe: Recipe, calls: list[Call], wide: nn.Module | None
) -> nn.Module:
    """The network sqrt(1/(1-s)) times as wide: the given one, or one found by running."""
    if wide is None:
        last = {call.name for call in calls if call.last}
        return widen(model, example, sizes.wide_factor(recipe.sparsity), last)
    made = copy.deepcopy(wide)
    own, theirs = {call.name for call in calls}, {call.name for call in trace(made, example)}
    if own != theirs:
        odd = sorted(own ^ theirs)[0]
        raise RetrofitError(f"the wide network has other layers than the model; the first is {odd}")
    return made


def _swapped(
    model: nn.Module, recipe: Recipe, chosen: list[Call]
) -> tuple[nn.Module, dict[str, list[str]]]:
    """A copy with stand-ins for the chosen layers; {layer: names of the masked layers inside it}."""
    made = copy.deepcopy(model)
    stands: dict[str, list[str]] = {}
    for call in chosen:
        layer = made.get_submodule(call.name)
        settings = _settings(layer, recipe)
        if settings is None:
            stands[call.name] = [call.name]
            continue
        try:
            made = installed(made, {call.name: settings})
        except ValueError as error:
            raise RetrofitError(f"{call.name}: {error}") from None
        stand = made.get_submodule(call.name).train(layer.training)
        stands[call.name] = [f"{call.name}.{n}".lstrip(".") for n in stand.sparse_layers()]
    return made, stands


def _settings(layer: nn.Module, recipe: Recipe) -> dict[str, Any] | None:
    """How to make the stand-in of a layer; None for one that is too small to dope."""
    d_in, d_out = layer_sizes(layer)
    found: dict[str, Any] = {"family": recipe.family}
    if recipe.family == "doped":
        rank = sizes.doped_rank(recipe.sparsity, d_in, d_out)
        return found | {"rank": rank} if rank else None
    found["activation_name"] = recipe.activation
    if recipe.family == "parallel":
        return found | {"branches": sizes.branches(recipe.sparsity)}
    return found | {"rank": sizes.factorized_rank(recipe.sparsity, d_in, d_out)}


def _counts(
    made: nn.Module,
    example: Example,
    recipe: Recipe,
    chosen: list[Call],
    stands: dict[str, list[str]],
    positions: dict[str, int],
    before: Cost,
) -> dict[str, int]:
    """{masked layer: weights that it keeps} at which the FLOPs are those of before."""
    names = [name for call in chosen for name in stands[call.name]]
    weights = {name: made.get_submodule(name).weight for name in names}
    found: dict[str, int] = {}
    if recipe.family != "wide" and recipe.distribution == "uniform":
        for call in chosen:
            inside = stands[call.name]
            whole = made.get_submodule(call.name)
            products = [m for m in whole.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
            numbers = [weights[name].numel() for name in inside]
            dense = sum(m.weight.numel() for m in products) - sum(numbers)
            budget = call.layer.weight.numel() - dense
            share = 1 - sizes.solve_sparsity(budget, 0, sum(numbers))
            ones = [1] * len(numbers)
            filled = exact_counts(numbers, ones, [share] * len(numbers), budget)
            found |= dict(zip(inside, filled, strict=True))
        return found
    numbers = [weights[name].numel() for name in names]
    costs = [positions[name] for name in names]
    maskable = sum(c * n for c, n in zip(costs, numbers, strict=True))
    dense = counted(made, example).macs - maskable
    if recipe.distribution == "uniform":
        shares = [1 - sizes.solve_sparsity(before.macs, dense, maskable)] * len(names)
    else:
        shapes = [tuple(weights[name].shape) for name in names]
        sizes.solve_sparsity(before.macs, dense, maskable)  # refuses what no sparsity can pay
        shares = densities(shapes, costs, before.macs - dense, recipe.distribution)
    filled = exact_counts(numbers, costs, shares, before.macs - dense)
    return dict(zip(names, filled, strict=True))


def _row(call: Call, made: nn.Module, reason: str, positions: dict[str, int]) -> Row:
    """What became of a layer; to be called while its weights show their masks (see `at_counts`)."""
    whole = made.get_submodule(call.name)
    found = {
        f"{call.name}.{name}".strip("."): layer.weight
        for name, layer in whole.named_modules()
        if isinstance(layer, LAYERS)
    }
    kept = {name: int(torch.count_nonzero(weight)) for name, weight in found.items()}
    shapes = " + ".join("x".join(map(str, weight.shape)) for weight in found.values())
    return Row(
        call.name,
        tuple(call.layer.weight.shape),
        shapes,
        2 * call.macs,
        2 * sum(positions.get(name, 0) * n for name, n in kept.items()),
        sum(weight.numel() for weight in found.values()),
        sum(kept.values()),
        reason,
    )

"""AWQ on one decoder block: gather, search, fold, clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call

from methods.models.blocks import block_linears, in_dtype, run_block
from methods.quantize.clip import search_clip
from methods.quantize.features import BATCH, Calls, InputStatistics, check_finite, watching
from methods.quantize.fold import expand_shared, fold, mean_over_sharing
from methods.quantize.grid import Grid
from methods.quantize.mappings import Place, role_of
from methods.quantize.output_error import group_gram, linear_output_loss
from methods.quantize.scale_search import Found, candidate_scales, search_scale, weight_magnitude
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.models.blocks import BlockArguments
    from methods.quantize.params import AWQ


@dataclass
class BlockSearch:
    """What was decided for a block, and the float features it hands on.

    scales: by the module they are folded into; limits: by layer, `[out, groups]`.
    records: one row of plain values for each place and each clipped layer outside of one.
    """

    outputs: torch.Tensor
    scales: dict[str, torch.Tensor] = field(default_factory=dict)
    limits: dict[str, torch.Tensor] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)


@torch.no_grad()
def search_block(
    name: str,
    block: nn.Module,
    places: list[Place],
    hidden: torch.Tensor,
    arguments: BlockArguments,
    params: AWQ,
) -> BlockSearch:
    """Search scales and limits for one block, and fold the scales into it.

    hidden: the block's inputs `[n, T, d]`, in the type to compute in. The block runs once on them.
    Raises RetrofitError naming the layer whose input, or the place whose every loss, is not finite.
    """
    grid, linears = Grid.of(params), block_linears(block)
    clipped = [n for n in linears if params.clip.enabled and role_of(n) not in params.clip.skip]
    statistics, calls = _watched(linears, places, clipped, hidden, params)
    with watching(
        [(linears[n], s) for n, s in statistics.items()],
        [(place.inspect, kept) for place, kept in calls],
    ):
        found = BlockSearch(run_block(block, hidden, arguments, BATCH, hidden.dtype))
    check_finite(statistics, name)
    by_place = {place.group.previous: kept for place, kept in calls}
    divisors: dict[str, torch.Tensor] = {}
    for place in places:
        seen = statistics[place.group.layers[0]]
        best = search_place(
            place, seen, by_place.get(place.group.previous), params, grid, hidden.dtype
        )
        arrow = f"{place.group.previous} -> {', '.join(place.layers)}"
        if best is None:
            raise RetrofitError(
                f"awq: no scale of {name}, {arrow} has a finite loss; "
                "try compute_dtype: float32, or other calibration text"
            )
        found.scales[place.group.previous] = best.best.scale
        divisors |= dict.fromkeys(place.layers, fold(place, best.best.scale))
        found.records.append(
            {
                "module": f"{name}: {arrow}",
                "r": best.best.ratio,
                "duo": best.best.duo,
                "loss_rtn": best.loss_rtn,
                "loss_best": best.loss,
            }
        )
    _clip(name, linears, clipped, statistics, divisors, places, params, grid, found)
    return found


def _watched(
    linears: dict[str, nn.Linear],
    places: list[Place],
    clipped: list[str],
    hidden: torch.Tensor,
    params: AWQ,
) -> tuple[dict[str, InputStatistics], list[tuple[Place, Calls]]]:
    """What to gather: by layer, and by inspected module. Layers of a place share their inputs."""
    tokens = hidden.shape[0] * hidden.shape[1]
    wanted = params.search_tokens or tokens
    calls: list[tuple[Place, Calls]] = []
    statistics: dict[str, InputStatistics] = {}
    covered: set[str] = set()
    for place in places:
        alone = place.group.inspect is None
        rows = [params.clip.tokens or tokens] if set(place.layers) & set(clipped) else []
        if not alone and not place.group.mixes_tokens:
            rows.append(wanted)
        statistics[place.group.layers[0]] = InputStatistics(
            gram="fast" if alone else None, every=max(1, tokens // max(rows)) if rows else None
        )
        covered |= set(place.layers)
        if place.group.mixes_tokens:
            calls.append((place, Calls(-(-wanted // hidden.shape[1]))))
    for layer in clipped:
        if layer not in covered:
            every = max(1, tokens // (params.clip.tokens or tokens))
            statistics[layer] = InputStatistics(every=every)
    return statistics, calls


def search_place(
    place: Place,
    seen: InputStatistics,
    calls: Calls | None,
    params: AWQ,
    grid: Grid,
    dtype: torch.dtype,
) -> Found | None:
    """The best scale of one place; None when no loss is finite. Changes nothing."""
    layers = list(place.layers.values())
    weight = torch.cat([layer.weight.float() for layer in layers])
    x = seen.magnitude
    w = weight_magnitude(weight, grid.group_size) if params.duo else None
    expand: Callable[[torch.Tensor], torch.Tensor] = lambda scale: scale  # noqa: E731
    if place.share:
        share = place.share
        x = mean_over_sharing(x, share)
        w = mean_over_sharing(w, share) if w is not None else None
        expand = lambda scale: expand_shared(scale, share)  # noqa: E731
    mode = {False: "act", True: "duo", "both": "both"}[params.duo]
    candidates = candidate_scales(
        x, w, params.grid, mode, params.include_identity, params.include_r1
    )
    if place.group.inspect is None:
        gram = seen.mean_gram.to(dtype)
        return search_scale(
            weight, candidates, lambda new: linear_output_loss(new - weight, gram), grid, expand
        )
    if calls:
        inputs, few = calls.calls, calls.part(params.screen_tokens)
    else:
        inputs, few = (
            [((seen.rows(tokens)[None],), {})]
            for tokens in (params.search_tokens, params.screen_tokens)
        )
    with in_dtype(place.inspect, dtype):
        loss = module_loss(place, inputs)
        screen = module_loss(place, few) if params.screen_tokens else None
        return search_scale(weight, candidates, loss, grid, expand, screen, params.shortlist)


def module_loss(
    place: Place, inputs: list[tuple[tuple, dict[str, Any]]]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The mean squared change of the inspected module's output, as a function of the stacked
    weights `[sum of outs, in]` of the place's layers. The module itself is never written to.
    """
    prefix = f"{place.group.inspect}."
    names = [f"{name.removeprefix(prefix)}.weight" for name in place.layers]
    if list(place.layers) == [place.group.inspect]:
        names = ["weight"]
    rows = [layer.out_features for layer in place.layers.values()]
    dtype = next(place.inspect.parameters()).dtype

    def outputs(weights: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for args, kwargs in inputs:
            out = functional_call(place.inspect, weights, args, kwargs)
            found.append((out[0] if isinstance(out, tuple) else out).float())
        return found

    reference = outputs({})
    count = sum(out.numel() for out in reference)

    def loss(stack: torch.Tensor) -> torch.Tensor:
        weights = dict(zip(names, stack.to(dtype).split(rows), strict=True))
        changed = outputs(weights)
        return (
            sum(
                (new.sub_(old)).square_().sum() for new, old in zip(changed, reference, strict=True)
            )
            / count
        )

    return loss


def _clip(
    name: str,
    linears: dict[str, nn.Linear],
    clipped: list[str],
    statistics: dict[str, InputStatistics],
    divisors: dict[str, torch.Tensor],
    places: list[Place],
    params: AWQ,
    grid: Grid,
    found: BlockSearch,
) -> None:
    """Search limits for the layers and add them, with their share, to `found`."""
    source = {layer: p.group.layers[0] for p in places for layer in p.layers}
    grams: dict[str, torch.Tensor] = {}
    shares: dict[str, float] = {}
    for layer in clipped:
        key = source.get(layer, layer)
        if key not in grams:
            rows = statistics[key].rows(params.clip.tokens).float()
            if layer in divisors:
                rows = rows / divisors[layer]
            grams[key] = group_gram(rows, grid.group_size)
        best = search_clip(
            linears[layer].weight.float(),
            grams[key],
            grid,
            params.clip.grid,
            params.clip.max_shrink,
        )
        found.limits[layer] = best.limit
        shares[layer] = best.share
        if layer not in source:
            found.records.append({"module": f"{name}: {layer}", "clip": best.share})
    for place, record in zip(places, found.records, strict=False):
        values = [shares[layer] for layer in place.layers if layer in shares]
        if values:
            record["clip"] = sum(values) / len(values)

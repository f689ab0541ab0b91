"""Wider networks out of one trained network: Net2Net, LEMON, and units drawn anew.

Unit j of the wide layer copies unit g(j) of the narrow one. Its outgoing weights are then shared among
all copies of g(j), so that what is read from them is what was read before:

    W'_rj = s_rj W_{g(r) g(j)},    s_rj > 0,    sum of s_rj over the copies j of one unit = 1

Net2Net (Chen, Goodfellow, Shlens, arXiv 1511.05641, section 3.1) has equal shares s = 1 / copies. LEMON
(Wang et al., arXiv 2310.07999, section 4) has unequal ones: copies with equal shares get equal
gradients and stay copies for ever, copies with unequal shares part at the first update. Batch
normalisations are copied; the function is the same in training and in evaluation.

Fidelity
--------
From the papers: both rules. One mapping g serves all layers of one width, so that the two sides of
every addition agree about what their channels are. The code published with arXiv 2311.04251 draws one
for each layer and also normalises the copied weights, so its Net2Net baseline starts from another
function (``tests/grow``). Chosen: shares of LEMON uniform in [0.5, 1.5) before they are divided by
their sum. LEMON's expansions of layer normalisation and attention, and its learning rate, are left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from methods.study.errors import RetrofitError

Rule = Literal["net2net", "lemon", "random"]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TOLERANCE = 1e-4


def unit_mapping(narrow: int, wide: int, generator: torch.Generator | None = None) -> Tensor:
    """g: int64 [wide] into the narrow layer's units; the first ``narrow`` are themselves.

    The others are drawn at random (Net2Net), or without a generator taken in turn.
    Raises ValueError for a layer that would not grow.
    """
    if wide < narrow:
        raise ValueError(f"{narrow} units cannot become {wide}")
    if generator is None:
        return torch.arange(wide) % narrow
    drawn = torch.randint(0, narrow, (wide - narrow,), generator=generator)
    return torch.cat([torch.arange(narrow), drawn])


def equal_shares(mapping: Tensor) -> Tensor:
    """s_j = 1 / (how many copies unit g(j) has): [wide], float32."""
    return 1 / torch.bincount(mapping)[mapping].float()


def unequal_shares(rows: int, mapping: Tensor, generator: torch.Generator) -> Tensor:
    """s_rj: [rows, wide], positive, different, and of sum 1 over the copies of each unit."""
    drawn = 0.5 + torch.rand(rows, len(mapping), generator=generator)
    sums = torch.zeros(rows, int(mapping.max()) + 1).index_add_(1, mapping, drawn)
    return drawn / sums[:, mapping]


def widen_weight(weight: Tensor, rows: Tensor, columns: Tensor, shares: Tensor) -> Tensor:
    """W' of W [o, i, ...] for mappings rows [o'] and columns [i'] and shares [i'] or [o', i']."""
    copied = weight[rows][:, columns]
    return copied * shares.view(*shares.shape, *[1] * (weight.dim() - 2))


@torch.no_grad()
def widen(
    narrow: nn.Module,
    wide: nn.Module,
    rule: Rule,
    generator: torch.Generator,
    *,
    example: Tensor | None = None,
    noise: float = 0.0,
) -> nn.Module:
    """Give ``wide``, a freshly initialised network of the same layers, what ``narrow`` has learnt.

    In place; returns ``wide``. example: an input of both, with which the rules that keep the function
    are checked. noise: net2net: added to the weights of copies, in deviations of theirs.
    Raises RetrofitError: other layers, a layer that shrinks, parameters of an unknown kind, and a
    function that is not kept.
    """
    mappings: dict[tuple[int, int], Tensor] = {}

    def mapping(small: int, large: int) -> Tensor:
        if (small, large) not in mappings:
            drawn = generator if rule == "net2net" else None
            mappings[small, large] = unit_mapping(small, large, drawn)
        return mappings[small, large]

    noisy: list[tuple[Tensor, Tensor]] = []
    for name, source, target in _pairs(narrow, wide):
        try:
            rows = mapping(_outputs(source), _outputs(target))
            if isinstance(source, NORMS):
                _widen_norm(source, target, rows, rule)
                continue
            columns = mapping(source.weight.shape[1], target.weight.shape[1])
        except ValueError as error:
            raise RetrofitError(f"layer {name}: {error}") from None
        if rule == "random":
            corner = tuple(slice(0, size) for size in source.weight.shape)
            target.weight[corner] = source.weight
            if source.bias is not None:
                target.bias[: len(source.bias)] = source.bias
            continue
        shares = (
            equal_shares(columns)
            if rule == "net2net"
            else unequal_shares(len(rows), columns, generator)
        )
        target.weight.copy_(widen_weight(source.weight, rows, columns, shares.to(source.weight)))
        noisy.append((target.weight[source.weight.shape[0] :], source.weight.std()))
        if source.bias is not None:
            target.bias.copy_(source.bias[rows])
    if example is not None and rule != "random":
        _check(narrow, wide, example)
    if noise and rule == "net2net":
        for copies, deviation in noisy:
            copies += noise * deviation * torch.randn(copies.shape, generator=generator)
    return wide


def _widen_norm(source: nn.Module, target: nn.Module, rows: Tensor, rule: Rule) -> None:
    for part in ("weight", "bias", "running_mean", "running_var"):
        values = getattr(source, part)
        if values is None:
            continue
        if rule == "random":
            getattr(target, part)[: len(values)] = values
        else:
            getattr(target, part).copy_(values[rows])
    if source.num_batches_tracked is not None:
        target.num_batches_tracked.copy_(source.num_batches_tracked)


def _pairs(narrow: nn.Module, wide: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    others = dict(wide.named_modules())
    found = []
    for name, module in narrow.named_modules():
        other = others.get(name)
        if type(other) is not type(module):
            raise RetrofitError(
                f"the wide network has no {type(module).__name__} '{name}', as the narrow one has"
            )
        if isinstance(module, LAYERS + NORMS):
            if getattr(module, "groups", 1) != 1:
                raise RetrofitError(f"layer {name} has groups, which widening does not cover")
            found.append((name, module, other))
        elif next(module.parameters(recurse=False), None) is not None:
            raise RetrofitError(
                f"{name or 'the network'} ({type(module).__name__}) has parameters of its own; only "
                "linear layers, convolutions and batch normalisations can be widened"
            )
    return found


def _outputs(layer: nn.Module) -> int:
    return layer.num_features if isinstance(layer, NORMS) else layer.weight.shape[0]


def _check(narrow: nn.Module, wide: nn.Module, example: Tensor) -> None:
    modes = narrow.training, wide.training
    before, after = narrow.eval()(example), wide.eval()(example)
    narrow.train(modes[0])
    wide.train(modes[1])
    size = float(before.abs().max())
    if not torch.allclose(before, after, rtol=TOLERANCE, atol=TOLERANCE * size):
        gap = float((before - after).abs().max())
        raise RetrofitError(
            f"the wide network moves outputs of size {size:.3g} by {gap:.3g}: layers of one width do "
            "not carry the same channels, as after flattening an image or joining features"
        )

"""Folding scales into weights: layers times s, the module before them divided by s.

Everything works on the modules' own tensors and changes them; the float network stays the same up
to rounding (AWQ, 2306.00978, Section 3.2: `Q(W diag(s)) (diag(s)^-1 X)`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from methods.quantize.mappings import Place


@torch.no_grad()
def fold_norm(norm: nn.Module, layers: list[nn.Linear], scale: torch.Tensor) -> None:
    """Norm (RMSNorm or LayerNorm with bias) -> layers; `scale` `[features]`, positive."""
    norm.weight.div_(scale)
    if getattr(norm, "bias", None) is not None:
        norm.bias.div_(scale)
    scale_columns(layers, scale)


@torch.no_grad()
def fold_norm_plus_one(norm: nn.Module, layers: list[nn.Linear], scale: torch.Tensor) -> None:
    """A norm that multiplies by 1 + w, as Gemma's: w becomes (1 + w) / s - 1."""
    norm.weight.add_(1).div_(scale).sub_(1)
    scale_columns(layers, scale)


@torch.no_grad()
def fold_linear(previous: nn.Linear, layers: list[nn.Linear], scale: torch.Tensor) -> None:
    """Linear -> layers. Where `previous` has more outputs than there are scales (fused query, key
    and value), the last ones are meant.
    """
    previous.weight[-scale.numel() :].div_(scale[:, None])
    if previous.bias is not None:
        previous.bias[-scale.numel() :].div_(scale)
    scale_columns(layers, scale)


@torch.no_grad()
def fold_shared_value(
    value: nn.Linear, output: nn.Linear, scale: torch.Tensor, share: tuple[int, int, int]
) -> None:
    """Value projection whose heads are shared -> output projection.

    scale: `[value heads * size]`; every query head on a value head takes that head's scales.
    """
    fold_linear(value, [], scale)
    scale_columns([output], expand_shared(scale, share))


def expand_shared(scale: torch.Tensor, share: tuple[int, int, int]) -> torch.Tensor:
    """Per value channel `[heads * size]` to per input channel of the output projection."""
    heads, queries, size = share
    return scale.view(heads, 1, size).expand(heads, queries, size).reshape(-1)


def mean_over_sharing(magnitude: torch.Tensor, share: tuple[int, int, int]) -> torch.Tensor:
    """Mean of a per-input-channel quantity over the query heads that share a value head."""
    heads, queries, size = share
    return magnitude.view(heads, queries, size).mean(1).reshape(-1)


@torch.no_grad()
def scale_columns(layers: list[nn.Linear], scale: torch.Tensor) -> None:
    """Multiply input channel j of every layer by `scale[j]`."""
    for layer in layers:
        layer.weight.mul_(scale)


def fold(place: Place, scale: torch.Tensor) -> torch.Tensor:
    """Fold `scale` at a place of a block; returns it per input channel of the place's layers."""
    layers = list(place.layers.values())
    scale = scale.to(layers[0].weight)
    if place.group.kind == "norm":
        fold_norm(place.previous, layers, scale)
    elif place.group.kind == "norm_plus_one":
        fold_norm_plus_one(place.previous, layers, scale)
    elif place.share:
        fold_shared_value(place.previous, layers[0], scale, place.share)
        return expand_shared(scale, place.share)
    else:
        fold_linear(place.previous, layers, scale)
    return scale

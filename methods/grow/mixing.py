"""Weights as mixtures of templates, and a network of twice the width made of four of them.

Pham, Teterwak, Nelson, Plummer, "MixtureGrowth: growing neural networks by recombining learned
parameters", WACV 2024 (arXiv 2311.04251). A layer of the large network has four *members*, blocks of
half its size. Members 0 and 1 are two small networks that are trained on their own; 2 and 3 join them
when the network grows:

    W_i = sum_j alpha_ij T_j                 W = | W_0  W_2 |        rows: outputs
                                                 | W_3  W_1 |        columns: inputs

Pure functions of tensors; see :mod:`methods.grow.coefficients` for alpha_2 and alpha_3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Initialisation = Literal["kaiming", "published_code"]


def mix(coefficients: Tensor, templates: Tensor) -> Tensor:
    """W = sum_j alpha_j T_j: coefficients [t], templates [t, ...] to [...]."""
    return (coefficients @ templates.flatten(1)).view(templates.shape[1:])


def assemble(members: Sequence[Tensor], *, rows: bool, columns: bool) -> Tensor:
    """The grown weight of member weights W_0, W_1, W_2, W_3, each [o, i, ...].

    rows, columns: does the layer grow in its outputs, in its inputs? A first layer grows in its
    outputs alone and stacks W_0 on W_1 ([2o, i, ...]); a classifier in its inputs alone and has them
    side by side ([o, 2i, ...]), so that the members' logits add. Members 2 and 3 are read where both
    grow. Raises ValueError where neither does.
    """
    if not (rows or columns):
        raise ValueError("a layer that grows in neither inputs nor outputs cannot be assembled")
    if not (rows and columns):
        return torch.cat([members[0], members[1]], 0 if rows else 1)
    w0, w1, w2, w3 = members
    return torch.cat([torch.cat([w0, w2], 1), torch.cat([w3, w1], 1)], 0)


def template_deviation(shape: Sequence[int], rule: Initialisation = "kaiming") -> float:
    """Standard deviation of a fresh template of ``shape`` [o, i, ...].

    kaiming: sqrt(2 / fan-in) of the layer that the template is a part of. published_code: the fan-in
    that torch reads off the whole stack [t, o, i, ...] is o times as large, so templates start
    sqrt(o) times too small.
    """
    fan_in = math.prod(shape[1:])
    return math.sqrt(2 / (fan_in if rule == "kaiming" else shape[0] * fan_in))


def fresh_templates(
    count: int,
    shape: Sequence[int],
    generator: torch.Generator,
    rule: Initialisation = "kaiming",
) -> Tensor:
    """``count`` templates drawn from a normal distribution: [count, *shape], float32."""
    drawn = torch.randn(count, *shape, generator=generator)
    return drawn * template_deviation(shape, rule)


def fresh_coefficients(
    sets: Sequence[int],
    counts: Sequence[int],
    generator: torch.Generator,
    rule: Initialisation = "kaiming",
) -> list[Tensor]:
    """alpha_i of every member, [counts[sets[i]]] each.

    kaiming: rows of length 1, at right angles between members of one set as far as there is room, so
    that a member's weights start with the variance of its templates. published_code: rows of one
    orthogonal matrix over all members and sets; with fewer templates than members only its columns
    are orthonormal, and the rows are shorter than 1. It needs equal counts (ValueError).
    """
    if rule == "published_code":
        if len(set(counts)) > 1:
            raise ValueError(f"one matrix of coefficients needs equal counts, not {list(counts)}")
        return list(_orthogonal(len(sets), counts[0], generator))
    found: list[Tensor] = [torch.empty(0)] * len(sets)
    for number, count in enumerate(counts):
        members = [i for i, its_set in enumerate(sets) if its_set == number]
        for start in range(0, len(members), count):
            some = members[start : start + count]
            for i, row in zip(some, _orthogonal(len(some), count, generator), strict=True):
                found[i] = row
    return found


def _orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    empty = torch.empty(rows, columns)
    return torch.nn.init.orthogonal_(empty, generator=generator)

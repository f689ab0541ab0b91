"""Weight entanglement as pure functions: slices of one super-weight, superposed in one multiplication.

Sukthanker et al., "Weight-Entanglement Meets Gradient-Based Neural Architecture Search" (TangleNAS),
AutoML 2024 (arXiv 2312.10440), section 3. Options i of an operation share a super-weight W; option i
reads the slice S_i(W): leading entries of an axis, or the centred window of a kernel. The paper's
superposition pads every slice with zeros (Z) and adds them up,

    W_bar = sum_i a_i Z(S_i(W)),

or, for several decisions at once, with the product of their weights. Since an entry r is in S_i or
not, this is W times a mask of the same shape,

    W_bar = W * M,    M[r] = sum_{i : r in S_i} a_i,

and M is a contraction of small 0/1 indicators with the weights a. So the cost is one product of the
size of W, where the padded copies are as many as there are combinations.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from methods.search.choices import Size, combinations, distinct, size_in
from methods.study.errors import RetrofitError

Place = Literal["leading", "centred"]
"""Where a slice lies on its axis."""


def window(size: int, full: int, place: Place) -> slice:
    """The slice of ``size`` entries. A centred one must leave as much on both sides."""
    start = (full - size) // 2 if place == "centred" else 0
    return slice(start, start + size)


def check_size(layer: str, axis: str, size: Size, full: int, place: Place = "leading") -> None:
    """Raise RetrofitError for a size that is no slice of an axis with ``full`` entries."""
    for options in combinations(size):
        found = size.size(*options)
        names = " x ".join(choice.name for choice in size.choices)
        if not 1 <= found <= full:
            raise RetrofitError(
                f"layer {layer}: {names} asks for {found} {axis}, its super-weight has {full}; "
                f"allowed are 1 to {full}"
            )
        if place == "centred" and (full - found) % 2:
            raise RetrofitError(
                f"layer {layer}: a kernel of {found} does not lie in the centre of one of {full}; "
                f"choose {'odd' if full % 2 else 'even'} sizes"
            )


def indicator(size: Size, full: int, place: Place = "leading") -> Tensor:
    """float32 [n_1, …, n_d, full]: 1 where an entry is in the slice of a combination of options."""
    shape = [len(choice.options) for choice in size.choices]
    rows = torch.zeros(*shape, full)
    for index, options in zip(
        itertools.product(*map(range, shape)), combinations(size), strict=True
    ):
        rows[(*index, window(size.size(*options), full, place))] = 1.0
    return rows


def mask(
    sizes: Sequence[Size | None], indicators: Sequence[Tensor | None], weights: Mapping[str, Tensor]
) -> Tensor:
    """M, the sum over combinations of the product of their weights and indicators.

    sizes, indicators: for each axis of the weight, None where it has no choice (M has length 1
    there). weights: [n] for each decision by name. Differentiable in the weights. A decision that
    rules several axes enters once, which is what makes two kernel axes a square.
    """
    decisions = distinct(sizes)
    letter = {choice.name: chr(ord("A") + number) for number, choice in enumerate(decisions)}
    terms = [letter[choice.name] for choice in decisions]
    operands = [weights[choice.name] for choice in decisions]
    result = ""
    for number, (size, rows) in enumerate(zip(sizes, indicators, strict=True)):
        if size is None:
            continue
        axis = chr(ord("a") + number)
        terms.append("".join(letter[choice.name] for choice in size.choices) + axis)
        operands.append(rows.to(operands[0]))
        result += axis
    summed = torch.einsum(f"{','.join(terms)}->{result}", *operands)
    lengths = iter(summed.shape)
    return summed.reshape([1 if size is None else next(lengths) for size in sizes])


def superpose(
    weight: Tensor,
    sizes: Sequence[Size | None],
    places: Sequence[Place],
    weights: Mapping[str, Tensor],
) -> Tensor:
    """W_bar as the paper writes it: the sum of zero-padded slices. The definition, for tests.

    Axis by axis as in :func:`mask`; the work grows with the number of combinations.
    """
    total = torch.zeros_like(weight)
    decisions = distinct(sizes)
    for options in itertools.product(*(choice.options for choice in decisions)):
        chosen = {choice.name: option for choice, option in zip(decisions, options, strict=True)}
        part = tuple(
            slice(None) if size is None else window(_size(size, chosen), full, place)
            for size, full, place in zip(sizes, weight.shape, places, strict=True)
        )
        padded = torch.zeros_like(weight)
        padded[part] = weight[part]
        factor = torch.ones((), dtype=weight.dtype)
        for choice, option in zip(decisions, options, strict=True):
            factor = factor * weights[choice.name][choice.index(option)]
        total = total + factor * padded
    return total


def joint(*weights: Tensor) -> Tensor:
    """Weights of all combinations of several decisions, flattened; the first is the slowest.

    The order of itertools.product, in which the published code lists combinations.
    """
    product = weights[0]
    for following in weights[1:]:
        product = (product[:, None] * following[None, :]).flatten()
    return product


def cut(
    weight: Tensor,
    sizes: Sequence[Size | None],
    places: Sequence[Place],
    architecture: Mapping[str, object],
) -> Tensor:
    """S_i(W): the slice that an architecture reads, as a view; further axes stay whole."""
    return weight[
        tuple(
            slice(None) if size is None else window(size_in(size, architecture), full, place)
            for size, full, place in zip(sizes, weight.shape, places, strict=False)
        )
    ]


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    rows: Tensor,
    a: Tensor,
) -> Tensor:
    """sum_e a_e Z(LayerNorm(x[..., :e])) in one pass over x [..., D].

    rows: [n, D] indicators of the n widths; a: [n]. Statistics are those of each width, so a one-hot
    ``a`` is the sub-network's own layer; the published code takes them over all D in the mixture and
    over e in the sub-network, which do not agree.
    """
    counts = rows.sum(1)
    means = (x @ rows.T) / counts  # [..., n]
    squares = (x.square() @ rows.T) / counts
    scale = a * (squares - means.square()).clamp_min(0.0).add(eps).rsqrt()
    y = x * (scale @ rows) - (scale * means) @ rows
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias * (a @ rows)


def _size(size: Size, chosen: Mapping[str, object]) -> int:
    return size.size(*(chosen[choice.name] for choice in size.choices))

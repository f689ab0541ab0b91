"""The losses of HMoDE (section III) as pure functions of predicted and true density maps.

All maps are [batch, 1, h, w] with the same pixels, multiplied by the same constant (100 in the paper's code). Terms are
sums over pixels, maps and images; :func:`total` divides by the batch, so a batch's density, relative and attention
losses are the means of its images'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

EPSILON = 1e-10


@dataclass(frozen=True)
class Output:
    """What a counting network says of a batch: maps [batch, 1, h, w] from the coarsest level to the final one.

    levels: the level of each map (0 for an expert, 1 for a group, 2 for the mixture of groups).
    gates: shares [batch, k, h', w'] of each gate whose experts should be used equally. attention: where objects are,
    [batch, 1, h', w'] in 0..1, or None.
    """

    maps: list[Tensor]
    levels: list[int]
    gates: list[Tensor] = field(default_factory=list)
    attention: Tensor | None = None

    @property
    def density(self) -> Tensor:
        """The final map."""
        return self.maps[-1]


def squared_error(predicted: Tensor, true: Tensor) -> Tensor:
    """Σ (predicted - true)²; ValueError where shapes differ, which broadcasting would hide."""
    if predicted.shape != true.shape:
        raise ValueError(f"a map of {tuple(predicted.shape)} against one of {tuple(true.shape)}")
    return ((predicted - true) ** 2).sum()


def importance(gates: Sequence[Tensor]) -> Tensor:
    """Σ over gates of the squared coefficient of variation of the experts' total shares; 0 where all are equal."""
    found = torch.zeros(())
    for shares in gates:
        mass = shares.sum((0, 2, 3))
        found = found.to(mass) + mass.var() / (mass.mean() ** 2 + EPSILON)
    return found


def attention_error(attention: Tensor, true: Tensor, threshold: float) -> Tensor:
    """Σ binary cross-entropy of attention [batch, 1, h, w] against where the density exceeds the threshold."""
    there = (true > threshold).to(attention)
    return -(
        there * (attention + EPSILON).log() + (1 - there) * (1 - attention + EPSILON).log()
    ).sum()


def local_counts(density: Tensor, patch: int) -> Tensor:
    """Sums over patches [batch, h // patch · w // patch]; a border narrower than a patch is left out."""
    return avg_pool2d(density, patch).flatten(1) * patch**2


def relative_error(predicted: Tensor, true: Tensor, patch: int = 16, hardest: int = 9) -> Tensor:
    """The relative local counting loss of one map.

    The `hardest` patches are those with the largest squared error. Their squared errors are summed; and, ordered by
    their true counts, falling, they form three interleaved triples (j, j+3, j+6 of 9), within each of which a later
    patch must not be given a larger count than an earlier one. Order and choice follow the truth; the gradient flows
    through the predicted counts only. ValueError where an image has fewer patches.
    """
    errors = local_counts((predicted - true) ** 2, patch)
    if errors.shape[1] < hardest:
        raise ValueError(
            f"a map of {predicted.shape[2]} x {predicted.shape[3]} has {errors.shape[1]} patches of {patch} "
            f"pixels; the relative loss compares {hardest}"
        )
    chosen = errors.topk(hardest, dim=1)
    truth = local_counts(true, patch).gather(1, chosen.indices)
    counts = local_counts(predicted, patch).gather(1, chosen.indices)
    ordered = counts.gather(1, truth.argsort(dim=1, descending=True, stable=True))
    return chosen.values.sum() + misordered(ordered)


def misordered(counts: Tensor) -> Tensor:
    """Σ over the three interleaved triples and their pairs of max(0, later - earlier), counts [batch, 3 k]."""
    columns = counts.view(len(counts), 3, -1)
    first, second, third = columns.unbind(1)
    return sum(
        (later - earlier).clamp(min=0).sum()
        for earlier, later in ((first, second), (first, third), (second, third))
    )


def level_weight(level: int) -> int:
    """2^level. (The published line, commented out, takes the batch's number instead of the map's: 2^(batch // 3).)"""
    return 2**level


def total(
    output: Output,
    true: Tensor,
    *,
    relative: float = 1.0,
    importance_weight: float = 1.0,
    attention_weight: float = 1.0,
    patch: int = 16,
    hardest: int = 9,
    threshold: float = 1e-3,
) -> dict[str, Tensor]:
    """{term: value, divided by the batch}; `loss` is their weighted sum. Terms with weight 0 are left out."""
    weighted = list(zip(output.maps, map(level_weight, output.levels), strict=True))
    found = {"density": sum(weight * squared_error(m, true) for m, weight in weighted)}
    weights = {"density": 1.0}
    if relative:
        found["relative"] = sum(
            weight * relative_error(m, true, patch, hardest) for m, weight in weighted
        )
        weights["relative"] = relative
    if output.gates and importance_weight:
        found["importance"] = importance(output.gates)
        weights["importance"] = importance_weight
    if output.attention is not None and attention_weight:
        found["attention"] = attention_error(output.attention, true, threshold)
        weights["attention"] = attention_weight
    terms = {name: value / len(true) for name, value in found.items()}
    terms["loss"] = sum(weights[name] * value for name, value in terms.items())
    return terms

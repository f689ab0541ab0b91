"""What alpha_2 and alpha_3 of the new blocks are when the network grows (arXiv 2311.04251, section 3).

Each policy takes the coefficients of the two trained members and of the two that were never trained
and gives all four; the first two are handed through untouched.

    none        as they were drawn
    zero        0: the grown network is the sum of the members, and still learns (dL/dalpha = <dL/dW, T>)
    random      uniform in [0, noise)
    copy        those of the trained member with the same templates, plus noise
    orthogonal  at right angles to every member with the same templates
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Policy = Literal["none", "zero", "random", "copy", "orthogonal", "published_code"]
TRAINED = 2
"""Members 0 and 1 are trained before the network grows."""


def none(alphas: Sequence[Tensor], sets: Sequence[int], noise: float, _: object) -> list[Tensor]:
    """As they were drawn."""
    return list(alphas)


def zero(alphas: Sequence[Tensor], sets: Sequence[int], noise: float, _: object) -> list[Tensor]:
    """All zero."""
    return [*alphas[:TRAINED], *(torch.zeros_like(alpha) for alpha in alphas[TRAINED:])]


def random(
    alphas: Sequence[Tensor], sets: Sequence[int], noise: float, generator: torch.Generator
) -> list[Tensor]:
    """Uniform in [0, noise)."""
    drawn = (noise * torch.rand(len(alpha), generator=generator) for alpha in alphas[TRAINED:])
    return [*alphas[:TRAINED], *drawn]


def copy(
    alphas: Sequence[Tensor], sets: Sequence[int], noise: float, generator: torch.Generator
) -> list[Tensor]:
    """alpha_i <- alpha_j + noise * v, with j the trained member of the same set of templates.

    v: a direction drawn from the positive orthant, of length 1; one for all members whose
    coefficients are equally many. Raises ValueError where a new member has templates of its own.
    """
    shifts: dict[int, Tensor] = {}
    found = list(alphas)
    for i in range(TRAINED, len(alphas)):
        sources = [j for j in range(TRAINED) if sets[j] == sets[i]]
        if not sources:
            raise ValueError(
                f"member {i} shares its templates (set {sets[i]}) with no trained member, so there "
                "are no coefficients to copy; choose another policy or other sets"
            )
        count = len(alphas[i])
        if count not in shifts:
            direction = torch.rand(count, generator=generator)
            shifts[count] = noise * direction / direction.norm()
        found[i] = alphas[sources[0]] + shifts[count].to(alphas[i])
    return found


def orthogonal(
    alphas: Sequence[Tensor], sets: Sequence[int], noise: float, _: object
) -> list[Tensor]:
    """alpha_i at right angles to every alpha_j of the same set, as long as those are on average, times noise.

    Members of different sets mix different templates, so an angle between them would mean nothing.
    Where a set has no more templates than members no right angle is left, and alpha_i is the
    direction least aligned with the others (it minimises sum_j cos^2).
    """
    found = list(alphas)
    for i in range(TRAINED, len(alphas)):
        others = [found[j] for j in range(i) if sets[j] == sets[i]]
        if others:
            length = torch.stack([alpha.norm() for alpha in others]).mean()
            found[i] = noise * length * least_aligned(torch.stack(others))
    return found


def least_aligned(vectors: Tensor) -> Tensor:
    """The unit vector u [t] that minimises sum_j (u . v_j / |v_j|)^2 for vectors [m, t].

    It is at right angles to all where they leave room (rank < t). Its largest entry is positive.
    """
    directions = vectors.double() / vectors.double().norm(dim=1, keepdim=True).clamp_min(1e-30)
    u = torch.linalg.svd(directions, full_matrices=True).Vh[-1]
    return (u * torch.sign(u[u.abs().argmax()])).to(vectors)


def published_code(
    alphas: Sequence[Tensor], sets: Sequence[int], noise: float, _: object
) -> list[Tensor]:
    """What the published default "orthogonal" computes: see `orthogonal` for what it should.

    alpha_2 stays as drawn; alpha_3 is the last right-singular vector of alpha_0, alpha_1, alpha_2,
    whatever sets they belong to: at right angles to them with four templates or more, and not with
    the default two. Raises ValueError for sets of unequal size, where the published code fails too.
    """
    if len({len(alpha) for alpha in alphas}) > 1:
        raise ValueError(
            f"the published orthogonal policy stacks coefficients of {[len(a) for a in alphas]} "
            "templates and fails; choose orthogonal, or equally many templates in both sets"
        )
    last = torch.linalg.svd(torch.stack(list(alphas[:3])), full_matrices=True).Vh[-1]
    return [*alphas[:3], noise * last]


POLICIES: dict[str, Callable[..., list[Tensor]]] = {
    "none": none,
    "zero": zero,
    "random": random,
    "copy": copy,
    "orthogonal": orthogonal,
    "published_code": published_code,
}
assert tuple(POLICIES) == get_args(Policy)

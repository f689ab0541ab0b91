"""Masks as pure functions of tensors: how they begin, what is dropped and grown, and how many.

SET: Mocanu et al. 2018. RigL: Evci et al., ICML 2020 (arXiv 1911.11134), Algorithm 1. Gradual
magnitude pruning: Zhu and Gupta 2017 (arXiv 1710.01878). Every mask has exactly the number of ones
asked for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from methods.study.errors import RetrofitError


def random_mask(shape: torch.Size, count: int, generator: torch.Generator) -> Tensor:
    """bool of the shape with ``count`` ones at uniformly random places. Raises RetrofitError."""
    numbers = math.prod(shape)
    _check_count(count, numbers)
    mask = torch.zeros(numbers, dtype=torch.bool)
    mask[torch.randperm(numbers, generator=generator)[:count]] = True
    return mask.view(shape)


def top_mask(score: Tensor, count: int) -> Tensor:
    """bool like ``score`` with ones at the ``count`` largest values. Raises RetrofitError."""
    _check_count(count, score.numel())
    mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
    mask[torch.topk(score.flatten(), count).indices] = True
    return mask.view(score.shape)


def drop_and_grow(weight: Tensor, mask: Tensor, score: Tensor, drop: float, count: int) -> Tensor:
    """The next mask: all but a fraction of the active weights, and the best of the other places.

    weight, score: float, and mask: bool, of one shape. Of the active weights all but
    int(``drop`` x their number) with the smallest magnitude are kept; the rest of ``count`` goes to
    the largest non-negative ``score`` outside (the magnitude of the dense gradient: RigL; random
    numbers: SET), where what was just dropped is eligible too. The result has ``count`` ones.

    An active weight that is exactly zero is still preferred to an inactive one, and a place without
    any score is grown before the count falls short; the published code loses weights in both cases.
    """
    active = int(mask.sum())
    kept = min(active - int(drop * active), count)
    outside = torch.full_like(weight, -1.0)
    keep = top_mask(torch.where(mask, weight.abs(), outside), kept)
    grown = top_mask(torch.where(keep, outside, score.to(weight.dtype)), count - kept)
    return keep | grown


def drop_fraction(step: int, end: int, drop: float = 0.3) -> float:
    """drop x (1 + cos(pi step / end)) / 2, and 0 from ``end`` on; steps count from 1."""
    return 0.0 if step >= end else drop * 0.5 * (1 + math.cos(math.pi * step / end))


def cubic_count(step: int, begin: int, end: int, start: int, goal: int) -> int:
    """How many weights gradual pruning leaves: goal + (start - goal) (1 - t)^3, t from 0 to 1."""
    if step <= begin and begin < end:
        return start
    passed = 1.0 if step >= end else (step - begin) / (end - begin)
    return goal + round((start - goal) * (1 - passed) ** 3)


def _check_count(count: int, numbers: int) -> None:
    if not 0 <= count <= numbers:
        raise RetrofitError(f"a mask of {numbers} weights cannot keep {count} of them")

"""Learning-rate schedules as pure functions of the update number.

Each gives the factor on the base learning rate for update ``step`` (the first update is step 0).
They hold no state, so a resumed run needs nothing but the step. Compose them by multiplying:
``lambda step: rate * warm_up(step, 100) * cosine(step, 5000)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def constant(step: int) -> float:
    """Always 1."""
    return 1.0


def multi_step(step: int, milestones: Sequence[int], factor: float = 0.1) -> float:
    """``factor`` to the number of milestones passed; a milestone counts from its own step on."""
    return factor ** sum(step >= milestone for milestone in milestones)


def piecewise(step: int, values: Mapping[int, float]) -> float:
    """The value of the last start that is not after ``step``: ``{0: .1, 60: .02}``.

    Raises ValueError when no start is early enough.
    """
    starts = [start for start in values if start <= step]
    if not starts:
        raise ValueError(f"the schedule {dict(values)} says nothing about step {step}")
    return values[max(starts)]


def cosine(step: int, steps: int, floor: float = 0.0) -> float:
    """Half a cosine from 1 at step 0 to ``floor`` at ``steps``, and ``floor`` beyond."""
    passed = min(max(step / steps, 0.0), 1.0)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * passed))


def warm_up(step: int, steps: int, start: float = 0.0) -> float:
    """Linear from ``start`` to 1: update ``step`` uses start + (1-start)(step+1)/steps, at most 1.

    The first update already moves (for ``start=0`` by 1/steps), and ``steps=0`` is no warm-up.
    """
    if step + 1 >= steps:
        return 1.0
    return start + (1.0 - start) * (step + 1) / steps

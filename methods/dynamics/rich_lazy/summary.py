"""From single networks to estimates: a record each, means and paired differences over replicates, curves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from methods.models.estimates import Estimates
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.dynamics.rich_lazy.params import RichLazy
    from methods.run.context import Context

CHANGES = ("weight_change", "representation_alignment", "kernel_alignment", "sign_similarity")
MEASURES = (*CHANGES, "loss", "accuracy", "silent")
START = ("effective_rank", "entropy_rank", "spectral_radius", "frobenius")
MATCHED = tuple(f"matched_{name}" for name in (*MEASURES, "step"))


@dataclass(frozen=True)
class Row:
    """One network: its measures by name (those at the matched loss only where it got there) and its course."""

    replicate: int
    arm: str
    values: dict[str, float]
    course: dict[str, list[float]]


def summarise(rows: list[Row], params: RichLazy, context: Context) -> Estimates:
    """Estimates of a whole run; also writes the history that figures are drawn from."""
    names = [*START, *MEASURES, *(MATCHED if params.target_loss is not None else ())]
    by_arm = {arm: [row for row in rows if row.arm == arm] for arm in params.arms}
    found: dict[str, Metric] = {}
    for name in names:
        values = {
            arm: {str(row.replicate): row.values[name] for row in own if name in row.values}
            for arm, own in by_arm.items()
        }
        found |= _metrics(name, values, params)
    if params.target_loss is not None:
        for arm, own in by_arm.items():
            reached = {str(row.replicate): float("matched_step" in row.values) for row in own}
            found[_named("reached", arm)] = _mean(reached)
    _write_history(by_arm, params, context)
    records = [
        {"replicate": row.replicate, "arm": row.arm, **{n: row.values.get(n, "") for n in names}}
        for row in rows
    ]
    return Estimates(records, _arrays(by_arm, params), found)


def _named(name: str, arm: str) -> str:
    return name if arm == "own" else f"{name}/{arm}"


def _metrics(name: str, values: dict[str, dict[str, float]], params: RichLazy) -> dict[str, Metric]:
    """Means of each arm, and paired differences: lowest rank minus highest, a structure minus each null."""
    found = {_named(name, arm): _mean(own) for arm, own in values.items() if own}
    arms = list(values)
    pairs = {f"minus-{null}": ("own", null) for null in params.nulls}
    if params.ranks is not None and len(arms) > 1:
        pairs = {"lowest-minus-highest": (arms[0], arms[-1])}
    for label, (ours, theirs) in pairs.items():
        both = {r: v - values[theirs][r] for r, v in values[ours].items() if r in values[theirs]}
        if both:
            found[f"{name}/{label}"] = _mean(both)
    return found


def _mean(values: dict[str, float]) -> Metric:
    numbers = list(values.values())
    stderr = None
    if len(numbers) > 1:
        stderr = float(np.std(numbers, ddof=1)) / math.sqrt(len(numbers))
    return Metric(
        float(np.mean(numbers)), stderr, len(numbers), values=numbers, labels=list(values)
    )


def _write_history(by_arm: dict[str, list[Row]], params: RichLazy, context: Context) -> None:
    """A row for each network at its end (`rank` and measures), and means over replicates along training.

    The latter have names of their own (`initial_rank`, `loss_at`, ...), so that figures do not mix the two.
    """
    for index, (arm, rows) in enumerate(by_arm.items()):
        rank = params.numbers[index] if params.numbers is not None else None
        known = {} if rank is None else {"rank": rank}
        for row in rows:
            context.record(arm=arm, replicate=row.replicate, **known, **row.values)
        known = {} if rank is None else {"initial_rank": rank}
        for number, step in enumerate(rows[0].course["step"]):
            means = {
                f"{name}_at": float(np.mean([row.course[name][number] for row in rows]))
                for name in ("loss", "weight_change", "representation_alignment")
            }
            context.record(course=arm, step=step, **known, **means)


def _arrays(by_arm: dict[str, list[Row]], params: RichLazy) -> dict[str, np.ndarray]:
    """Courses: `step` [looks]; `loss`, `weight_change`, `representation_alignment` [replicates, arms, looks]."""
    first = by_arm[params.arms[0]][0]
    found = {"step": np.array(first.course["step"], dtype=np.int64)}
    for name in ("loss", "weight_change", "representation_alignment"):
        courses = [[row.course[name] for row in rows] for rows in by_arm.values()]
        found[name] = np.array(courses).transpose(1, 0, 2)
    return found

"""Two cells side by side: which of their values belong together, and by how much they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from methods.measure.statistics import Interval, paired_difference
from methods.report.cells import Measurement, Over
from methods.study.errors import RetrofitError


@dataclass(frozen=True)
class Pairs:
    """Values of two measurements, pair by pair."""

    ours: list[float]
    theirs: list[float]
    over: Over
    exact: bool
    """Both are counts: their difference is known, not estimated."""

    def difference(self) -> Interval:
        """Mean of `ours - theirs` with its 95 % interval; no interval for a single pair."""
        return paired_difference(self.ours, self.theirs)


def pair(ours: Measurement, theirs: Measurement, over: Over | Literal["counts"]) -> Pairs:
    """Pair by seed, or by unit within the seeds that both have; counts are single values.

    A deterministic measurement stands for every seed of the other.
    Raises RetrofitError where the two share no seed or no unit, and for counts that differ between seeds.
    """
    if over == "counts":
        return Pairs([ours.count()], [theirs.count()], "seeds", exact=True)
    exact = ours.exact and theirs.exact
    seeds = _shared_seeds(ours, theirs)
    if over == "seeds":
        a, b = ours.by_seed(), theirs.by_seed()
        if ours.deterministic:
            a = dict.fromkeys(seeds, ours.values[0])
        if theirs.deterministic:
            b = dict.fromkeys(seeds, theirs.values[0])
        return Pairs([a[s] for s in seeds], [b[s] for s in seeds], over, exact)
    a = ours.units(None if ours.deterministic else seeds)
    b = theirs.units(None if theirs.deterministic else seeds)
    shared = [label for label in a if label in b]
    if not shared:
        without = ours if not a else theirs
        reason = (
            f"'{without.name}' was measured without single values"
            if not a or not b
            else f"the two share no unit of '{ours.name}'"
        )
        raise RetrofitError(f"cannot be compared over units: {reason}")
    return Pairs([a[label] for label in shared], [b[label] for label in shared], over, exact)


def _shared_seeds(ours: Measurement, theirs: Measurement) -> tuple[int, ...]:
    if ours.deterministic and theirs.deterministic:
        return (0,)
    if ours.deterministic:
        return theirs.seeds
    if theirs.deterministic:
        return ours.seeds
    shared = tuple(seed for seed in ours.seeds if seed in theirs.seeds)
    if not shared:
        raise RetrofitError(f"the two share no seed of '{ours.name}'")
    return shared

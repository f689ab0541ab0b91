"""Verdicts on a paper's claims, by paired comparisons of our own cells.

*reproduced*: every comparison holds with its whole 95 % interval, after Holm's correction over the comparisons of the
claim.  *partly*: some hold, or, without an interval (one seed), the numbers point the claimed way; it never becomes
*reproduced* on that basis.  *undecided*: the intervals contain what is claimed and its opposite.  *not reproduced*:
more comparisons speak against the claim than for it.  *not testable at this size*: the study says why, or the variants
are not part of the tier.

Comparisons of counts (bytes, parameters), into which neither a seed nor a sample enters, are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from methods.measure.statistics import Interval, holm, interval_from_stderr, paired_difference
from methods.report.cells import CellResult, Cells, Measurement
from methods.report.comparisons import Pairs, pair
from methods.report.numbers import around, p_value, signed, significant
from methods.study.errors import RetrofitError
from methods.study.names import matches
from methods.study.reporting import Band, Claim, Equivalence, Ordering

REPRODUCED, PARTLY, UNDECIDED = "reproduced", "partly", "undecided"
NOT_REPRODUCED, NOT_TESTABLE = "not reproduced", "not testable at this size"
VERDICTS = (REPRODUCED, PARTLY, UNDECIDED, NOT_REPRODUCED, NOT_TESTABLE)
LEVEL = 0.05

State = Literal["holds", "open", "against", "points to it", "points against it"]
"""The last two: there is one value, or only equal ones, and so no spread to judge by."""


@dataclass(frozen=True)
class Comparison:
    """One check on one metric in one setting."""

    metric: str
    setting: str
    variant: str
    reference: str | None
    """The other variant; None for a band."""
    required: str
    """What the check asks for, in words."""
    ours: float
    theirs: float | None
    difference: Interval
    """`ours - theirs` (the value itself for a band), with its 95 % interval where there is one."""
    over: str
    state: State
    p: float | None = None
    """Two-sided, of the boundary that the check draws."""
    p_holm: float | None = None
    unit: str = ""

    @property
    def numbers(self) -> str:
        """The difference (or the value, for a band) with interval, unit, n and p-value."""
        d = self.difference
        text = around(d.value, d.low, d.high)
        if self.reference is not None:
            text = signed(text, d.value)
        unit = f" {self.unit}" if self.unit else ""
        count = "exact" if self.over == "exact" else f"n = {d.n} {self.over}"
        if d.n == 1 and self.over != "exact":
            count = f"one {self.over.removesuffix('s')}, no interval"
        p = f", {p_value(self.p_holm)}" if self.p_holm is not None and self.over != "exact" else ""
        return f"{text}{unit} ({count}{p})"

    @property
    def sentence(self) -> str:
        """Who against whom, with the numbers."""
        against = "" if self.reference is None else f" against {self.reference}"
        return f"{self.variant}{against}: {self.numbers}"


@dataclass(frozen=True)
class Judgement:
    """A claim with its verdict and the comparisons behind it."""

    name: str
    claim: Claim
    verdict: str
    summary: str
    """Why, in one sentence."""
    comparisons: tuple[Comparison, ...] = ()
    missing: tuple[str, ...] = ()
    """What the claim names and this tier does not run."""


def judge(cells: Cells) -> list[Judgement]:
    """The verdict on each claim of the study.

    Raises RetrofitError for a check that cannot be carried out: an unknown metric, no direction, no units.
    """
    return [_judge(name, claim, cells) for name, claim in cells.plan.study.claims.items()]


def _judge(name: str, claim: Claim, cells: Cells) -> Judgement:
    if claim.untestable:
        return Judgement(name, claim, NOT_TESTABLE, claim.untestable)
    missing: list[str] = []
    found: list[Comparison] = []
    try:
        for check in claim.check:
            found += _compare(check, cells, missing)
    except RetrofitError as error:
        raise RetrofitError(f"{cells.plan.path}: claims.{name}: {error}") from None
    missing = list(dict.fromkeys(missing))
    if not found:
        reason = f"tier {cells.plan.tier} does not run {', '.join(missing) or 'these variants'}"
        return Judgement(name, claim, NOT_TESTABLE, reason, missing=tuple(missing))
    comparisons = _corrected(found)
    verdict, summary = _verdict(comparisons)
    if missing:
        verdict = PARTLY if verdict == REPRODUCED else verdict
        summary += f"; not run in tier {cells.plan.tier}: {', '.join(missing)}"
    return Judgement(name, claim, verdict, summary, comparisons, tuple(missing))


def _verdict(comparisons: tuple[Comparison, ...]) -> tuple[str, str]:
    states = [comparison.state for comparison in comparisons]
    total, holding = len(states), states.count("holds")
    pointing = states.count("points to it")
    contrary = states.count("against") + states.count("points against it")
    unproven = pointing + states.count("points against it")
    if holding == total:
        return REPRODUCED, {1: "holds", 2: "both comparisons hold"}.get(
            total, f"all {total} comparisons hold"
        )
    parts = []
    if total > 1 or holding:
        parts.append(f"{holding} of {total} comparisons hold")
    if unproven:
        word = {0: "against the claim", unproven: "as claimed"}.get(pointing)
        word = word or f"{pointing} of {unproven} as claimed"
        parts.append(f"direction only (no spread to judge by): {word}")
    if states.count("open"):
        undecided = "the interval does not exclude the boundary"
        parts.append(undecided if total == 1 else f"{states.count('open')} undecided")
    if states.count("against"):
        parts.append("the opposite" if total == 1 else f"{states.count('against')} the opposite")
    supporting = holding + pointing
    if supporting and supporting >= contrary:
        verdict = PARTLY
    else:
        verdict = NOT_REPRODUCED if contrary else UNDECIDED
    return verdict, "; ".join(parts)


def _corrected(found: list[Comparison]) -> tuple[Comparison, ...]:
    """Holm over all comparisons with a p-value; what does not survive is open."""
    tested = [index for index, comparison in enumerate(found) if comparison.p is not None]
    if tested:
        for index, p in zip(tested, holm([found[i].p for i in tested]), strict=True):
            state = found[index].state
            if p >= LEVEL and state in ("holds", "against"):
                state = "open"
            found[index] = replace(found[index], p_holm=p, state=state)
    return tuple(found)


def _compare(check: Ordering | Equivalence | Band, cells: Cells, missing: list[str]) -> list:
    metrics = [name for name in cells.metrics if fnmatchcase(name, check.metric)]
    if not metrics and not cells.measures(check.metric, "check"):
        missing.append(check.metric)
        return []
    compare = {Ordering: _ordering, Equivalence: _equivalence, Band: _band}[type(check)]
    found = []
    for setting in (s for s in cells.settings if matches(s, check.settings)):
        for metric in metrics:
            found += compare(check, cells, setting, metric)
    missing += _absent(check, cells)
    return found


def _absent(check: Ordering | Equivalence | Band, cells: Cells) -> Iterator[str]:
    match check:
        case Ordering():
            patterns = [*check.better, *check.than]
        case Equivalence():
            patterns = [check.variant, check.as_good_as]
        case Band():
            patterns = [check.variant]
    for pattern in patterns:
        if not pattern.startswith("!") and not any(matches(v, [pattern]) for v in cells.variants):
            yield pattern


def _named(cells: Cells, setting: str, patterns: list[str], metric: str) -> list:
    """(cell, measurement) of each variant that the patterns name and that has the metric."""
    rows = []
    for variant in cells.variants:
        cell = cells.get(setting, variant) if matches(variant, patterns) else None
        measurement = cell.measurement(metric) if cell else None
        if measurement:
            rows.append((cell, measurement))
    return rows


def _ordering(check: Ordering, cells: Cells, setting: str, metric: str) -> Iterator[Comparison]:
    margin = f" by more than {significant(check.margin)}" if check.margin else ""
    for cell, ours in _named(cells, setting, check.better, metric):
        sign = _direction(ours)
        word = "higher" if sign > 0 else "lower"
        for other, theirs in _named(cells, setting, check.than, metric):
            if other.variant == cell.variant:
                continue
            pairs = pair(ours, theirs, check.over)
            difference = pairs.difference()
            ahead = sign * difference.value > check.margin
            p = _p(pairs, sign * check.margin)
            required = f"{cell.variant} {word} than {other.variant}{margin}"
            yield _made(required, cell, other, ours, pairs, difference, ahead, p)


def _equivalence(
    check: Equivalence, cells: Cells, setting: str, metric: str
) -> Iterator[Comparison]:
    for cell, ours in _named(cells, setting, [check.variant], metric):
        worse = -_direction(ours) if check.one_sided else 0
        for other, theirs in _named(cells, setting, [check.as_good_as], metric):
            pairs = pair(ours, theirs, check.over)
            difference = pairs.difference()
            tolerance = significant(check.tolerance)
            if check.one_sided:
                within = worse * difference.value < check.tolerance
                p = _p(pairs, worse * check.tolerance)
                required = f"{cell.variant} worse than {other.variant} by less than {tolerance}"
            else:
                within = abs(difference.value) < check.tolerance
                edges = [_p(pairs, check.tolerance), _p(pairs, -check.tolerance)]
                p = _both_edges(edges)
                required = f"{cell.variant} within {tolerance} of {other.variant}"
            yield _made(required, cell, other, ours, pairs, difference, within, p)


def _band(check: Band, cells: Cells, setting: str, metric: str) -> Iterator[Comparison]:
    for cell, ours in _named(cells, setting, [check.variant], metric):
        over = "seeds" if len(ours.values) > 1 else "units"
        exact = ours.exact
        interval = ours.interval(over)
        if check.over == "counts":
            exact, interval = True, Interval(ours.count(), None, None, 1)
        bounds = [bound for bound in (check.low, check.high) if bound is not None]
        within = (check.low is None or interval.value > check.low) and (
            check.high is None or interval.value < check.high
        )
        edges = [_p_of(interval, bound) for bound in bounds]
        p = _both_edges(edges)
        required = f"{cell.variant} " + " and ".join(
            f"{word} {significant(bound)}"
            for word, bound in (("above", check.low), ("below", check.high))
            if bound is not None
        )
        if interval.low is None:
            over = "seeds"
        pairs = Pairs([interval.value], [0.0], over, exact)
        yield _made(required, cell, None, ours, pairs, interval, within, p)


def _made(
    required: str,
    cell: CellResult,
    other: CellResult | None,
    ours: Measurement,
    pairs: Pairs,
    difference: Interval,
    good: bool,
    p: float | None,
) -> Comparison:
    if pairs.exact:
        state: State = "holds" if good else "against"
    elif p is None:
        state = "points to it" if good else "points against it"
    else:
        state = "open" if p >= LEVEL else "holds" if good else "against"
    theirs = None if other is None else sum(pairs.theirs) / len(pairs.theirs)
    return Comparison(
        metric=ours.name,
        setting=cell.setting,
        variant=cell.variant,
        reference=other.variant if other else None,
        required=required,
        ours=difference.value if other is None else sum(pairs.ours) / len(pairs.ours),
        theirs=theirs,
        difference=difference,
        over="exact" if pairs.exact else pairs.over,
        state=state,
        p=None if pairs.exact else p,
        unit=ours.unit,
    )


def _direction(measurement: Measurement) -> int:
    if measurement.higher_is_better is None:
        raise RetrofitError(
            f"'{measurement.name}' does not say whether higher is better, so nothing can be better on it"
        )
    return 1 if measurement.higher_is_better else -1


def _p(pairs: Pairs, boundary: float) -> float | None:
    """Two-sided p-value of "the paired difference is `boundary`"; None for a single pair."""
    shifted = [value - boundary for value in pairs.ours]
    return paired_difference(shifted, pairs.theirs).p


def _p_of(interval: Interval, boundary: float) -> float | None:
    """Two-sided p-value of "the estimate is `boundary`", from its standard error."""
    if interval.stderr is None:
        return None
    return interval_from_stderr(interval.value - boundary, interval.stderr, interval.n).p


def _both_edges(edges: list[float | None]) -> float | None:
    """Inside a band both edges must be excluded, outside it the nearer one: the larger p decides."""
    known = [p for p in edges if p is not None]
    return max(known) if known else None

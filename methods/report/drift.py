"""Does a regenerated table still say what the committed expectation says?

Where threads, processor, vector instructions, device and torch version agree, numbers must be equal bit for bit.
Elsewhere a cell may move by its column's tolerance, or, where none is stated, by 1 % or two combined standard errors,
whichever is more.
Wall-clock figures are not compared.  Claims may change their verdict, but not from reproduced to not reproduced.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from methods.report import document
from methods.report.claims import NOT_REPRODUCED, REPRODUCED
from methods.report.numbers import significant

RELATIVE = 0.01
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Move:
    """A cell that moved further than allowed, or is not there."""

    cell: str
    old: str
    new: str
    allowed: str


@dataclass
class Outcome:
    """What a comparison found; `markdown` is for people, `passed` for CI."""

    title: str
    failures: list[Move] = field(default_factory=list)
    exact: int = 0
    within: list[Move] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """No cell drifted and no claim fell."""
        return not self.failures

    @property
    def markdown(self) -> str:
        """A summary line and a table of what failed, and of what moved within its tolerance."""
        counts = [f"{self.exact} equal", f"{len(self.within)} within tolerance"]
        if self.skipped:
            counts.append(f"{len(self.skipped)} not compared (wall-clock)")
        word = "passes" if self.passed else f"**drifted in {len(self.failures)}**"
        lines = [f"### {self.title}: {word}", "", f"Cells: {', '.join(counts)}.", ""]
        for heading, moves in (("Drift", self.failures), ("Moved, but allowed", self.within)):
            if moves:
                lines += [f"{heading}:", "", "| cell | old | new | allowed |", "|---|---|---|---|"]
                lines += [f"| {m.cell} | {m.old} | {m.new} | {m.allowed} |" for m in moves]
                lines.append("")
        if self.verdicts:
            lines += ["Claims that changed:", "", *(f"- {line}" for line in self.verdicts), ""]
        if self.skipped:
            lines += [f"Not compared: {', '.join(self.skipped)}.", ""]
        return "\n".join(lines)


def compare(expected: Path, new: Path, exact: bool = False) -> Outcome:
    """Compare two study documents; `exact` demands equal bits and verdicts wherever they were made."""
    old, found = document.read(expected), document.read(new)
    outcome = Outcome(f"{found['study']} ({found['tier']})")
    for part in ("study", "tier"):
        if old[part] != found[part]:
            outcome.failures.append(Move(part, old[part], found[part], "the same"))
    ours, theirs = _metrics(found), _metrics(old)
    tolerances = _tolerances(found)
    for name in dict.fromkeys([*theirs, *ours]):
        if name not in ours:
            value = significant(theirs[name].value, 6)
            outcome.failures.append(Move(name.text, value, "missing", "present"))
        elif name not in theirs:
            value = significant(ours[name].value, 6)
            outcome.failures.append(Move(name.text, "not expected", value, "absent"))
        elif not (ours[name].entry["comparable"] and theirs[name].entry["comparable"]):
            outcome.skipped.append(name.text)
        else:
            _compare(name, theirs[name], ours[name], tolerances.get(name.metric), exact, outcome)
    _claims(old, found, exact, outcome)
    return outcome


@dataclass(frozen=True)
class _Name:
    setting: str
    variant: str
    metric: str

    @property
    def text(self) -> str:
        where = "" if self.setting == "default" else f"{self.setting}/"
        return f"{where}{self.variant} · {self.metric}"


@dataclass(frozen=True)
class _Found:
    entry: dict[str, Any]
    machines: frozenset

    @property
    def value(self) -> float:
        value = self.entry["value"]
        return math.nan if value is None else float(value)

    @property
    def stderr(self) -> float:
        seeds = self.entry.get("stderr")
        if seeds is None:
            seeds = (self.entry.get("units") or {}).get("stderr")
        return seeds or 0.0


def _metrics(study: dict[str, Any]) -> dict[_Name, _Found]:
    found = {}
    for cell in study["cells"]:
        chains = {name for planned in cell["planned"] for name in planned["chain"]}
        for metric, entry in cell["metrics"].items():
            runs = [study["runs"][name] for name in sorted(chains.union(entry["runs"]))]
            machines = frozenset(
                (run.get("device"), *document.environment(run)) for run in runs if "versions" in run
            )
            found[_Name(cell["setting"], cell["variant"], metric)] = _Found(entry, machines)
    return found


def _tolerances(study: dict[str, Any]) -> dict[str, float]:
    """The tightest tolerance that a table states for a metric."""
    found: dict[str, float] = {}
    for table in study["tables"].values():
        for column in table["columns"]:
            tolerance = column.get("tolerance")
            if tolerance is not None:
                metric = column["metric"]
                found[metric] = min(tolerance, found.get(metric, tolerance))
    return found


def _compare(
    name: _Name, old: _Found, new: _Found, tolerance: float | None, exact: bool, outcome: Outcome
) -> None:
    same_machine = bool(new.machines) and old.machines == new.machines
    same_bits = old.value == new.value and old.entry["values"] == new.entry["values"]
    if same_bits:
        outcome.exact += 1
        return
    if exact or same_machine:
        why = "exactly equal" if exact else "exactly equal (same threads, processor, torch)"
        outcome.failures.append(_move(name, old, new, why, digits=17))
        return
    if tolerance is not None:
        allowed, text = tolerance, f"± {significant(tolerance)}"
    else:
        noise = STANDARD_ERRORS * math.hypot(old.stderr, new.stderr)
        allowed = max(RELATIVE * abs(old.value), noise)
        text = f"± {significant(allowed)}"
    # Written so that a NaN on either side fails.
    kept = abs(new.value - old.value) <= allowed
    (outcome.within if kept else outcome.failures).append(_move(name, old, new, text))


def _move(name: _Name, old: _Found, new: _Found, allowed: str, digits: int = 6) -> Move:
    def written(value: float) -> str:
        return repr(value) if digits > 16 else significant(value, digits)

    return Move(name.text, written(old.value), written(new.value), allowed)


def _claims(old: dict, new: dict, exact: bool, outcome: Outcome) -> None:
    for name, before, after in _pairs(old["claims"], new["claims"]):
        if before == after:
            continue
        fallen = before == REPRODUCED and after in (NOT_REPRODUCED, "missing")
        outcome.verdicts.append(f"{name}: {before} → {after}")
        if fallen or exact:
            allowed = "the same verdict" if exact else "not a fall"
            outcome.failures.append(Move(f"claim {name}", before, after, allowed))


def _pairs(old: dict, new: dict) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys([*old, *new]):
        before = old[name]["verdict"] if name in old else "not expected"
        after = new[name]["verdict"] if name in new else "missing"
        yield name, before, after

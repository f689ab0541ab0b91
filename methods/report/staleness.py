"""Is a committed table what the configuration and the code of today ask for, and if not, what moved?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from methods.report import document
from methods.study.expansion import Plan, Run

What = Literal["spec", "code", "data", "report"]


@dataclass(frozen=True)
class Stale:
    """One reason why a table is not current."""

    what: What
    """spec: a setting; code: nothing but code; data: the bytes of a data set; report: a caption, a column."""
    where: str
    detail: str

    def __str__(self) -> str:
        heads = {
            "spec": "specification moved",
            "code": "only code moved",
            "data": "data moved",
            "report": "report moved (no run has to be made again)",
        }
        return f"{heads[self.what]}: {self.where}: {self.detail}"


def stale(table: Path, plan: Plan) -> list[Stale]:
    """Every reason why the table differs from the plan, the same reason only once; [] where it is current."""
    found = document.read(table)
    reasons: dict[tuple[str, str], Stale] = {}
    for reason in (*_cells(found, plan), *_report(found, plan)):
        reasons.setdefault((reason.what, reason.detail), reason)
    return list(reasons.values())


def _cells(found: dict[str, Any], plan: Plan) -> Iterator[Stale]:
    old = {
        (cell["setting"], cell["variant"], planned["seed"]): planned
        for cell in found["cells"]
        for planned in cell["planned"]
    }
    new = {(cell.setting, cell.variant, cell.seed): cell for cell in plan.cells}
    for key in dict.fromkeys([*old, *new]):
        where = _where(key)
        if key not in new:
            yield Stale(
                "spec", where, f"{_variant(key)} is in the table and no longer in the study"
            )
        elif key not in old:
            yield Stale("spec", where, f"{_variant(key)} is in the study and not in the table")
        else:
            cell, planned = new[key], old[key]
            for part, runs in (("chain", cell.chain), ("evaluations", cell.evaluations)):
                if len(runs) != len(planned[part]):
                    counts = f"{len(planned[part])} → {len(runs)} runs in its {part}"
                    yield Stale("spec", where, counts)
                for name, run in zip(planned[part], runs, strict=False):
                    yield from _run(found["runs"], name, run, where)


def _run(runs: dict[str, Any], name: str, run: Run, where: str) -> Iterator[Stale]:
    """What moved in this run itself or, where it did not, in what is upstream of it."""
    old = runs.get(name)
    if old is None:
        yield Stale("spec", where, f"the table does not describe {name}")
        return
    if old["key"] == run.key:
        return
    what: What = "data" if run.kind == "data" else "spec"
    moved = False
    if old["implementation"] != run.implementation:
        moved = True
        yield Stale("code", where, f"{run.slug}: {old['implementation']} → {run.implementation}")
    for path, before, after in differences(old["spec"], run.spec):
        moved = True
        yield Stale(what, where, f"{run.slug}: {path}: {before} → {after}")
    if old["seed"] != run.seed:
        moved = True
        yield Stale("spec", where, f"{run.slug}: seed {old['seed']} → {run.seed}")
    if old["code"] != run.code:
        moved = True
        module = run.implementation.split(":")[0]
        made_by = old.get("git", {}).get("commit", "")[:12]
        revision = f" (made by revision {made_by})" if made_by else ""
        yield Stale(
            "code", where, f"{module} and what it imports: {old['code']} → {run.code}{revision}"
        )
    for role in dict.fromkeys([*old["upstream"], *run.upstream]):
        if role not in run.upstream or role not in old["upstream"]:
            moved = True
            yield Stale(
                "spec",
                where,
                f"{run.slug}: upstream {role} is {'new' if role in run.upstream else 'gone'}",
            )
        else:
            below = list(_run(runs, old["upstream"][role], run.upstream[role], where))
            moved = moved or bool(below)
            yield from below
    if not moved:
        yield Stale("code", where, f"{run.slug}: the way keys are made has moved")


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted path, old, new) of every leaf that two specifications do not share."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            below = f"{path}.{key}" if path else str(key)
            yield from differences(old.get(key, _ABSENT), new.get(key, _ABSENT), below)
    elif old != new or type(old) is not type(new):
        yield path, str(old), str(new)


class _Absent:
    def __str__(self) -> str:
        return "(not there)"


_ABSENT = _Absent()


def _report(found: dict[str, Any], plan: Plan) -> Iterator[Stale]:
    old, new = found["reporting"], document.reporting_digests(plan)
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            word = "new" if name not in old else "gone" if name not in new else "changed"
            yield Stale("report", plan.path.name, f"{name} is {word}")


def _where(key: tuple[str, str, int]) -> str:
    return f"{_variant(key)}, seed {key[2]}"


def _variant(key: tuple[str, str, int]) -> str:
    setting, variant, _ = key
    return variant if setting == "default" else f"{setting}/{variant}"

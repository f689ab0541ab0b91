"""Names by which one part of a study refers to another: every one must exist before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from methods.study.errors import SpecError, choices
from methods.study.reporting import Band, Equivalence, MetricColumn, Ordering

if TYPE_CHECKING:
    from methods.study.specification import StudyBase
    from methods.study.strict_yaml import Document

Place = tuple[str | int, ...]


def matches(name: str, patterns: list[str]) -> bool:
    """Shell-style patterns; one that begins with `!` takes out again what an earlier one let in."""
    chosen = False
    for pattern in patterns:
        if pattern.startswith("!"):
            chosen = chosen and not fnmatchcase(name, pattern[1:])
        else:
            chosen = chosen or fnmatchcase(name, pattern)
    return chosen


def check_names(study: StudyBase, document: Document) -> None:
    """Raise SpecError, a line each, for patterns and names of variants and settings that match none of them."""
    variants, settings = list(study.variants), list(study.settings or {"default": None})
    measures = [measure.measure for measure in study.measure]
    problems = []
    for place, kind, pattern in _references(study):
        known = {"variant": variants, "setting": settings, "measure": measures}[kind]
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in known):
            line = document.line(place)
            where = f"{document.path}:{line}" if line else str(document.path)
            keys = ".".join(str(part) for part in place if isinstance(part, str))
            problems.append(
                f"{where}: {keys}: '{pattern}' matches no {kind}; {choices(pattern, known)}"
            )
    if problems:
        raise SpecError(problems)


def _references(study: StudyBase) -> Iterator[tuple[Place, str, str]]:
    """(where it stands, "variant", "setting" or "measure", the name or pattern)."""
    if isinstance(study.seeds, dict):
        for pattern in study.seeds:
            yield ("seeds", pattern), "variant", pattern
    for name, setting in study.settings.items():
        yield from _each(("settings", name, "only"), "variant", setting.only)
        if study.measure:
            yield from _each(("settings", name, "measure"), "measure", setting.measure)
    for name, table in study.tables.items():
        place = ("tables", name)
        yield from _each((*place, "rows"), "variant", table.rows)
        yield from _each((*place, "settings"), "setting", table.settings)
        yield from _each((*place, "notes"), "variant", list(table.notes))
        for index, column in enumerate(table.columns):
            at = (*place, "columns", index)
            if isinstance(column, MetricColumn):
                yield from _one((*at, "relative_to"), "variant", column.relative_to)
                yield from _one((*at, "setting"), "setting", column.setting)
            else:
                rows = [name.rpartition("/")[2] for name in column.values]
                yield from _each((*at, "values"), "variant", rows)
    for name, figure in study.figures.items():
        place = ("figures", name)
        yield from _each((*place, "rows"), "variant", figure.rows)
        yield from _each((*place, "settings"), "setting", figure.settings)
        yield from _one((*place, "ratio_to"), "variant", figure.ratio_to)
        yield from _one((*place, "ratio_of"), "variant", figure.ratio_of)
    for name, claim in study.claims.items():
        for check in claim.check:
            place = ("claims", name, "check")
            yield from _each((*place, "settings"), "setting", check.settings)
            match check:
                case Ordering():
                    yield from _each((*place, "better"), "variant", check.better)
                    yield from _each((*place, "than"), "variant", check.than)
                case Equivalence():
                    yield from _one((*place, "variant"), "variant", check.variant)
                    yield from _one((*place, "as_good_as"), "variant", check.as_good_as)
                case Band():
                    yield from _one((*place, "variant"), "variant", check.variant)


def _each(place: Place, kind: str, patterns: list[str]) -> Iterator[tuple[Place, str, str]]:
    for pattern in patterns:
        yield place, kind, pattern


def _one(place: Place, kind: str, name: str | None) -> Iterator[tuple[Place, str, str]]:
    if name is not None:
        yield place, kind, name

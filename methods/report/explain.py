"""From a cell of a table to where its number comes from: runs, settings, code, data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from methods.report import document
from methods.report.numbers import significant
from methods.study.errors import RetrofitError, choices


def explain(table: Path, row: str, column: str) -> str:
    """The whole descent as text.  `row`: variant or `setting/variant`; `column`: metric or a column's heading.

    Raises RetrofitError with the nearest match for a row or column that the table does not have.
    """
    found = document.read(table)
    cell, metric = _cell(found, row), _metric(found, column)
    if metric not in cell["metrics"]:
        raise RetrofitError(f"{table}: {row} has no '{metric}'; {choices(metric, cell['metrics'])}")
    entry = cell["metrics"][metric]
    lines = [f"{found['study']} ({found['tier']}): {row}, {metric}", *_value(entry)]
    chains = {planned["seed"]: planned["chain"] for planned in cell["planned"]}
    shown: set[str] = set()
    for seed, value, name in zip(entry["seeds"], entry["values"], entry["runs"], strict=True):
        head = "every seed" if entry["deterministic"] else f"seed {seed}"
        lines += ["", f"{head}: {value!r}"]
        for part in (*chains[seed], *([name] if name not in chains[seed] else [])):
            lines += _run(found, part, shown)
    lines += ["", *_code(found, shown)]
    lines += ["", *_mentions(found, cell, metric)]
    return "\n".join(lines).rstrip()


def _value(entry: dict[str, Any]) -> Iterator[str]:
    unit = f" {entry['unit']}" if entry["unit"] else ""
    if entry["low"] is not None:
        yield (
            f"mean {entry['value']!r}{unit}, 95 % interval {significant(entry['low'], 6)} to "
            f"{significant(entry['high'], 6)} over {entry['n']} seeds"
        )
    else:
        why = "no seed enters" if entry["deterministic"] else "one seed, no interval"
        yield f"{entry['value']!r}{unit} ({why})"
    units = entry.get("units")
    if units and units["low"] is not None:
        yield (
            f"over {units['n']} test units: {significant(units['low'], 6)} to "
            f"{significant(units['high'], 6)}"
        )


def _run(found: dict[str, Any], name: str, shown: set[str], depth: int = 1) -> Iterator[str]:
    run = found["runs"][name]
    indent = "  " * depth
    if name in shown:
        yield f"{indent}{name} (above)"
        return
    shown.add(name)
    yield f"{indent}{name}"
    yield f"{indent}  does      {run['implementation']}"
    if run["seed"] is not None:
        yield f"{indent}  seed      {run['seed']}"
    for part, value in sorted(run["spec"].items()):
        yield f"{indent}  {part:9} {json.dumps(value, sort_keys=True, ensure_ascii=False)}"
    if run["code"]:
        yield f"{indent}  code      {run['code']}"
    if "wall_seconds" in run:
        machine = f"torch {run['versions'].get('torch')}, {run['instruction_set']}, {run['device']}"
        yield (
            f"{indent}  made      in {run['wall_seconds']:.1f} s ({run['cpu_seconds']:.1f} s of CPU), "
            f"{machine}, threads: {run['threads']}"
        )
    for role, upstream in sorted(run["upstream"].items()):
        if upstream not in shown:
            yield f"{indent}  from      {role}:"
            yield from _run(found, upstream, shown, depth + 2)


def _code(found: dict[str, Any], shown: set[str]) -> Iterator[str]:
    hashes = dict.fromkeys(found["runs"][name]["code"] for name in sorted(shown))
    yield "code behind these runs:"
    for code in hashes:
        if code:
            entry = found["code"][code]
            yield f"  {code}  {entry['module']} and what it imports:"
            yield from (f"    {file}" for file in entry["files"])


def _mentions(found: dict[str, Any], cell: dict[str, Any], metric: str) -> Iterator[str]:
    claims = [
        f"  {name} ({claim['verdict']}): {claim['text']}"
        for name, claim in found["claims"].items()
        if any(
            one["metric"] == metric
            and one["setting"] == cell["setting"]
            and cell["variant"] in (one["variant"], one["reference"])
            for one in claim["comparisons"]
        )
    ]
    if claims:
        yield from ("claims that rest on it:", *claims)


def _cell(found: dict[str, Any], row: str) -> dict[str, Any]:
    cells = {f"{cell['setting']}/{cell['variant']}": cell for cell in found["cells"]}
    if row in cells:
        return cells[row]
    by_variant = [cell for cell in found["cells"] if row in (cell["variant"], _label(found, cell))]
    if len(by_variant) == 1 or (by_variant and len(found["settings"]) == 1):
        return by_variant[0]
    if by_variant:
        names = ", ".join(f"{cell['setting']}/{row}" for cell in by_variant)
        raise RetrofitError(f"{row} stands in several settings; say which: {names}")
    known = list(cells) if len(found["settings"]) > 1 else list(found["variants"])
    raise RetrofitError(f"{found['study']} has no row '{row}'; {choices(row, known)}")


def _label(found: dict[str, Any], cell: dict[str, Any]) -> str:
    return found["variants"][cell["variant"]]["label"]


def _metric(found: dict[str, Any], column: str) -> str:
    metrics = list(dict.fromkeys(name for cell in found["cells"] for name in cell["metrics"]))
    if column in metrics:
        return column
    headings = {
        entry["label"]: entry["metric"]
        for table in found["tables"].values()
        for entry in table["columns"]
        if entry["kind"] == "metric"
    }
    if column in headings:
        return headings[column]
    known = [*metrics, *headings]
    raise RetrofitError(f"{found['study']} has no column '{column}'; {choices(column, known)}")

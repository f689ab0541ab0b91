"""Everything that a study's report says, as one JSON document; Markdown, CSV and the page are renderings of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from methods.report import tables
from methods.report.cells import CellResult, Cells, Measurement
from methods.report.claims import Judgement, judge
from methods.study.errors import RetrofitError
from methods.study.expansion import Plan
from methods.study.keys import digest

FORMAT = 2
"""Raise it when a reader of older documents would go wrong."""


def document(cells: Cells, figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The study's document: settings, variants, cells, runs, tables, figures, claims."""
    plan, study = cells.plan, cells.plan.study
    built = tables.build(cells)
    return {
        "format": FORMAT,
        "study": study.study,
        "file": _inside(plan.path),
        "tier": plan.tier,
        "title": study.title,
        "paper": study.paper.model_dump() if study.paper else None,
        "notes": study.notes.model_dump(),
        "left_out": dict(sorted(plan.left_out.items())),
        "settings": {s: {"label": tables.setting_label(cells, s)} for s in cells.settings},
        "variants": {v: _variant(cells, v) for v in cells.variants},
        "reporting": reporting_digests(plan),
        "cells": [_cell(cell) for cell in cells],
        "tables": built,
        "tables_left_out": tables.left_out(cells, built),
        "figures": figures,
        "claims": {found.name: _claim(found) for found in judge(cells)},
        "runs": {
            name: {k: v for k, v in run.items() if k not in ("code_files", "files", "started")}
            for name, run in cells.runs.items()
        },
        "code": _code(cells),
    }


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with a digest over everything else in it: an edited number no longer fits."""
    return {**document, "seal": _seal(document)}


def _seal(document: dict[str, Any]) -> str:
    return digest({k: v for k, v in document.items() if k != "seal"}, 16)


def text(document: dict[str, Any]) -> str:
    """The document as JSON, the same bytes for the same content."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def metrics(documents: list[dict[str, Any]]) -> str:
    """`{study: {setting: {variant: {metric: mean}}}}` as JSON, for `dvc metrics`; wall-clock figures are left out."""
    found: dict[str, Any] = {}
    for one in documents:
        study = found.setdefault(one["study"], {})
        for cell in one["cells"]:
            values = {name: m["value"] for name, m in cell["metrics"].items() if m["comparable"]}
            study.setdefault(cell["setting"], {})[cell["variant"]] = values
    return text(found)


def read(path: Path) -> dict[str, Any]:
    """A study's document.  Raises RetrofitError for a file that is none, or of another format."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RetrofitError(f"there is no table {path}") from None
    except ValueError as error:
        raise RetrofitError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise RetrofitError(f"{path} is no table of this version; make it again")
    if "seal" in found and found["seal"] != _seal(found):
        raise RetrofitError(f"{path} was edited after it was made; make it again")
    return found


def reporting_digests(plan: Plan) -> dict[str, str]:
    """A digest of each thing that the study says about its report: what moves without a run moving."""
    study = plan.study.model_dump(mode="json")
    found = {part: digest(study[part]) for part in ("title", "paper", "notes")}
    for part in ("tables", "figures", "claims"):
        found |= {f"{part}.{name}": digest(value) for name, value in study[part].items()}
    labels = {
        part: {name: entry.get("label") for name, entry in study[part].items()}
        for part in ("variants", "settings")
    }
    return {**found, "labels": digest(labels)}


def environment(run: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """(threads, vector instructions, processor, torch version): where these agree, bits can be compared."""
    return (
        run.get("threads"),
        run.get("instruction_set"),
        run.get("processor"),
        run.get("versions", {}).get("torch"),
    )


def environments(document: dict[str, Any]) -> list[str]:
    """One line for each kind of machine that the measured runs ran on."""
    found = set()
    for run in document["runs"].values():
        if "versions" in run and run["kind"] in ("method", "evaluate"):
            threads, instructions, processor, torch = environment(run)
            device = run.get("device", "cpu")
            machine = f"{instructions} ({processor})" if processor else instructions
            found.add(f"torch {torch}, {machine}, {device}, threads: {threads}")
    return sorted(found)


def _inside(path: Path) -> str:
    """The study's file as the project knows it: never a path of this machine."""
    return path.name if path.is_absolute() else path.as_posix()


def _variant(cells: Cells, name: str) -> dict[str, Any]:
    variant = cells.plan.study.variants[name]
    steps = [step.model_dump(mode="json") for step in variant.steps]
    return {"label": tables.label_of(cells, name), "control": variant.control, "steps": steps}


def _cell(cell: CellResult) -> dict[str, Any]:
    return {
        "setting": cell.setting,
        "variant": cell.variant,
        "deterministic": cell.deterministic,
        "planned": [
            {
                "seed": planned.seed,
                "chain": [f"{run.kind}/{run.name}" for run in planned.chain],
                "evaluations": [f"{run.kind}/{run.name}" for run in planned.evaluations],
            }
            for planned in cell.planned
        ],
        "metrics": {name: _measurement(m) for name, m in sorted(cell.measurements.items())},
    }


def _measurement(measurement: Measurement) -> dict[str, Any]:
    interval = measurement.interval()
    only = measurement.metrics[0]
    found = {
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
        "stderr": interval.stderr,
        "values": measurement.values,
        "seeds": list(measurement.seeds),
        "deterministic": measurement.deterministic,
        "comparable": measurement.comparable,
        "unit": measurement.unit,
        "higher_is_better": measurement.higher_is_better,
        "runs": list(measurement.runs),
    }
    if only.stderr is not None or only.values is not None:
        units = measurement.interval("units")
        found["units"] = {
            "low": units.low,
            "high": units.high,
            "n": units.n,
            "stderr": units.stderr,
        }
    return found


def _claim(found: Judgement) -> dict[str, Any]:
    claim = found.claim
    return {
        "text": claim.text,
        "source": claim.source,
        "paper": claim.paper,
        "from_memory": claim.from_memory,
        "verdict": found.verdict,
        "summary": found.summary,
        "missing": list(found.missing),
        "comparisons": [
            {
                "metric": one.metric,
                "setting": one.setting,
                "variant": one.variant,
                "reference": one.reference,
                "required": one.required,
                "ours": one.ours,
                "theirs": one.theirs,
                "difference": one.difference.value,
                "low": one.difference.low,
                "high": one.difference.high,
                "n": one.difference.n,
                "over": one.over,
                "p": one.p,
                "p_holm": one.p_holm,
                "state": one.state,
                "numbers": one.numbers,
                "sentence": one.sentence,
            }
            for one in found.comparisons
        ],
    }


def _code(cells: Cells) -> dict[str, Any]:
    """Each closure once: its hash → the module that does the work and the files it imports."""
    return dict(sorted(dict(_closures(cells)).items()))


def _closures(cells: Cells) -> Iterator[tuple[str, dict[str, Any]]]:
    for run in cells.runs.values():
        if run["code"]:
            module = run["implementation"].split(":")[0]
            yield run["code"], {"module": module, "files": run.get("code_files") or {}}

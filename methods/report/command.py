"""What the command line calls: tables of one study, the report of all, a cell's descent, staleness."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from methods.report import document, frame, markdown
from methods.report.cells import gather
from methods.report.document import read
from methods.report.explain import explain
from methods.report.figures import draw
from methods.report.staleness import Stale, stale
from methods.run.artifact import sha256
from methods.study.expansion import Plan

__all__ = ["Stale", "edited", "explain", "read", "stale", "write_report", "write_tables"]


def write_tables(plan: Plan, results: Path, out: Path) -> list[Path]:
    """Write `<out>/tables/<study>.{json,md,csv}` and `<out>/figures/<study>-*.svg` from the runs in `<results>/runs`.

    The same runs give the same bytes. Raises RetrofitError where a run is missing or a table, figure or claim names
    what no run measured.
    """
    cells = gather(plan, results)
    figures = draw(cells, out)
    found = document.sealed(document.document(cells, figures))
    stem = out / "tables" / found["study"]
    written = {stem.with_name(f"{stem.name}.json"): document.text(found), **_renderings(found, out)}
    for path, text in written.items():
        _replace(path, text)
    return [*written, *(out / figure["file"] for figure in figures.values())]


def write_report(tables: list[Path], out: Path) -> list[Path]:
    """Write `<out>/claims.md`, `<out>/metrics.json` and `<out>/report/index.html` from the tables of one tier.

    Beside them `<out>/runs.parquet`, which is for looking into and no part of what is published.
    """
    documents = [document.read(path) for path in tables]
    written = _report_files(documents, out)
    for path, text in written.items():
        _replace(path, text)
    frame.write(documents, out / frame.FILE)
    return list(written)


def edited(tables: list[Path], out: Path) -> list[Path]:
    """Published files that do not say what the tables' JSON says; a missing one counts too."""
    documents = [document.read(path) for path in tables]
    figures = {
        out / figure["file"]: figure["sha256"]
        for found in documents
        for figure in found["figures"].values()
    }
    changed = [
        path for path, known in figures.items() if not path.is_file() or sha256(path) != known
    ]
    if changed:
        return changed  # the page holds them, so it cannot be judged
    expected = _report_files(documents, out)
    for found in documents:
        expected |= _renderings(found, out)
    return [
        path
        for path, text in expected.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def _renderings(found: dict[str, Any], out: Path) -> dict[Path, str]:
    stem = out / "tables" / found["study"]
    return {
        stem.with_name(f"{stem.name}.md"): markdown.study_page(found),
        stem.with_name(f"{stem.name}.csv"): markdown.table_csv(found),
    }


def _report_files(documents: list[dict[str, Any]], out: Path) -> dict[Path, str]:
    from methods.report.page import render

    pictures = {
        figure["file"]: (out / figure["file"]).read_text(encoding="utf-8")
        for found in documents
        for figure in found["figures"].values()
    }
    return {
        out / "claims.md": markdown.claims_page(documents),
        out / "metrics.json": document.metrics(documents),
        out / "report" / "index.html": render(documents, pictures),
    }


def _replace(path: Path, text: str) -> None:
    """All or nothing: a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)

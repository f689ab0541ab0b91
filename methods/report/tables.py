"""Tables as data: rows, columns and cells with their text, before anything is written in a format."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from methods.measure.statistics import Interval
from methods.report.cells import CellResult, Cells, Measurement
from methods.report.comparisons import pair
from methods.report.numbers import fixed, signed, significant
from methods.study.errors import RetrofitError
from methods.study.names import matches
from methods.study.reporting import MetricColumn, PaperColumn, Table

NOTHING = "–"
BYTES, MEGABYTE = "B", 1e6


def build(cells: Cells) -> dict[str, dict[str, Any]]:
    """Every table that this tier can fill, by name; a study that declares none gets one of all metrics.

    A tier other than `full` leaves out a table where a row pattern matches nothing: what it compares is not there.
    """
    tables = cells.plan.study.tables or {"all": _everything(cells)}
    if cells.plan.tier != "full":
        tables = {name: table for name, table in tables.items() if _comparable(cells, table)}
    built = {name: _Builder(cells, name, table).build() for name, table in tables.items()}
    return {name: table for name, table in built.items() if table["rows"]}


def left_out(cells: Cells, built: dict[str, dict[str, Any]]) -> list[str]:
    """Titles of the study's tables that this tier does not have."""
    return [table.title for name, table in cells.plan.study.tables.items() if name not in built]


def _comparable(cells: Cells, table: Table) -> bool:
    patterns = [pattern for pattern in table.rows if not pattern.startswith("!")]
    return all(any(matches(name, [p]) for name in cells.variants) for p in patterns)


def label_of(cells: Cells, variant: str) -> str:
    """How a variant is called in tables and figures."""
    return cells.plan.study.variants[variant].label or variant


def setting_label(cells: Cells, setting: str) -> str:
    """How a setting is called."""
    known = cells.plan.study.settings.get(setting)
    return (known.label if known else None) or setting


def _everything(cells: Cells) -> Table:
    columns = []
    for name in cells.metrics:
        found = [m for cell in cells if (m := cell.measurement(name))]
        in_megabytes = found[0].unit == BYTES
        scale = 1 / MEGABYTE if in_megabytes else 1.0
        largest = max(abs(m.value) * scale for m in found)
        digits = min(6, max(0, 3 - math.floor(math.log10(largest)))) if largest > 0 else 0
        label = f"{name} [MB]" if in_megabytes else None
        columns.append(MetricColumn(metric=name, scale=scale, digits=digits, label=label))
    return Table(title="Everything that was measured", columns=columns)


class _Builder:
    def __init__(self, cells: Cells, name: str, table: Table):
        self.cells, self.table = cells, table
        self.where = f"tables.{name}"
        self.missing: list[str] = []
        self.columns = [column for column in table.columns if self._present(column)]
        floats = [
            value
            for column in table.columns
            if isinstance(column, PaperColumn)
            for value in column.values.values()
            if isinstance(value, float)
        ]
        # The paper's 5.60 reads as 5.6 from YAML; its table shows as many decimals as its longest figure.
        self.paper_digits = max((_decimals(value) for value in floats), default=0)

    def build(self) -> dict[str, Any]:
        rows = list(self._rows())
        columns = [self._column(column) for column in self.columns]
        for index, heading in enumerate(columns):
            # A figure of the paper that has no row in this tier does not make an empty column.
            heading["empty"] = all(row["cells"][index]["text"] == NOTHING for row in rows)
        return {
            "title": self.table.title,
            "caption": self.table.caption,
            # A table may show one setting of several: which one, nothing else says.
            "by_setting": any(row["setting"] for row in rows) and len(self.cells.settings) > 1,
            "over": _over(rows),
            "missing": self.missing,
            "columns": columns,
            "rows": rows,
        }

    def _present(self, column: MetricColumn | PaperColumn) -> bool:
        if isinstance(column, PaperColumn):
            return True
        present = self.cells.measures(column.metric, f"{self.where}.columns")
        if column.relative_to and column.relative_to not in self.cells.variants:
            present = False
        if not present:
            self.missing.append(column.label or column.metric)
        return present

    def _column(self, column: MetricColumn | PaperColumn) -> dict[str, Any]:
        if isinstance(column, PaperColumn):
            return {"kind": "paper", **column.model_dump(exclude={"values"})}
        found = next(m for c in self.cells if (m := c.measurement(column.metric)))
        unit = f" [{found.unit}]" if found.unit and column.scale == 1.0 else ""
        label = column.label or f"{column.metric}{unit}"
        if column.relative_to and not column.label:
            label = f"{label}, against {label_of(self.cells, column.relative_to)}"
        return {
            "kind": "metric",
            **column.model_dump(),
            "label": label,
            "unit": found.unit,
            "higher_is_better": found.higher_is_better,
        }

    def _rows(self) -> Iterator[dict[str, Any]]:
        metric_columns = [c for c in self.columns if isinstance(c, MetricColumn)]
        fixed_setting = all(c.setting for c in metric_columns) and metric_columns
        settings = [s for s in self.cells.settings if matches(s, self.table.settings)]
        for setting in [None] if fixed_setting else settings:
            for variant in self.cells.variants:
                if matches(variant, self.table.rows):
                    row = self._row(setting, variant)
                    if row:
                        yield row

    def _row(self, setting: str | None, variant: str) -> dict[str, Any] | None:
        if setting and self.cells.get(setting, variant) is None:
            return None
        entries = [self._cell(column, setting, variant) for column in self.columns]
        measured = [entry for entry in entries if "metric" in entry and entry["text"] != NOTHING]
        if not measured:
            return None
        counts = [
            e["n"] for e in entries if e.get("n") and e["over"] == _over([{"cells": entries}])
        ]
        fixed_cells = [e["deterministic"] for e in entries if "deterministic" in e]
        return {
            "setting": setting,
            "setting_label": setting_label(self.cells, setting) if setting else None,
            "variant": variant,
            "label": label_of(self.cells, variant),
            "control": self.cells.plan.study.variants[variant].control,
            "note": self.table.notes.get(variant),
            "n": max(counts, default=1),
            "deterministic": bool(fixed_cells) and all(fixed_cells),
            "cells": entries,
        }

    def _cell(
        self, column: MetricColumn | PaperColumn, setting: str | None, variant: str
    ) -> dict[str, Any]:
        if isinstance(column, PaperColumn):
            value = column.values.get(f"{setting}/{variant}", column.values.get(variant))
            if value is None:
                return {"text": NOTHING}
            text = value if isinstance(value, str) else fixed(value, self.paper_digits)
            return {"text": text, "value": value if isinstance(value, float) else None}
        where = column.setting or setting
        cell = self.cells.get(where, variant)
        ours = cell.measurement(column.metric) if cell else None
        if ours is None:
            return {"text": NOTHING}
        theirs = None
        if column.relative_to:
            other = self.cells.get(where, column.relative_to)
            theirs = other.measurement(column.metric) if other else None
            if theirs is None or variant == column.relative_to:
                return {"text": NOTHING}
        return self._measured(column, cell, ours, theirs)

    def _measured(
        self, column: MetricColumn, cell: CellResult, ours: Measurement, theirs: Measurement | None
    ) -> dict[str, Any]:
        over = column.over
        if theirs is None:
            interval = ours.interval(over)
        else:
            try:
                interval = pair(ours, theirs, over).difference()
            except RetrofitError as error:
                raise RetrofitError(
                    f"{self.cells.plan.path}: {self.where}: column '{column.metric}': {error}"
                ) from None
        deterministic = ours.deterministic and (theirs is None or theirs.deterministic)
        if over == "units" and interval.low is None:
            over = "seeds"
        return {
            "text": _text(interval, column, difference=theirs is not None),
            "setting": cell.setting,
            "variant": cell.variant,
            "metric": column.metric,
            "value": interval.value,
            "low": interval.low,
            "high": interval.high,
            "n": interval.n,
            "over": over,
            "deterministic": deterministic,
        }


def _over(rows: list[dict[str, Any]]) -> str:
    """units: every interval of these rows is over test units, and n counts them; otherwise seeds."""
    found = {cell["over"] for row in rows for cell in row["cells"] if "over" in cell}
    return "units" if found == {"units"} else "seeds"


def _decimals(value: float) -> int:
    text = repr(value)
    return 0 if "e" in text or text.endswith(".0") else len(text.partition(".")[2])


def _text(interval: Interval, column: MetricColumn, difference: bool) -> str:
    value = interval.value * column.scale
    text = fixed(value, column.digits)
    if difference:
        text = signed(text, value)
    if interval.low is None:
        return text
    half = interval.half_width * abs(column.scale)
    if half == 0:
        return text  # all seeds equal
    if "×" not in text and float(f"{half:.{column.digits}f}") == 0:
        return f"{text} ± {significant(half, 1)}"
    return f"{text} ± {fixed(half, column.digits)}"

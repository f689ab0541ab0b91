"""Fabricated studies: plans made by hand, run directories written through the real artifact code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from methods.report.cells import Cells, gather
from methods.run import artifact
from methods.run import metrics as metric_files
from methods.run.metrics import Metric
from methods.study.expansion import Cell, Plan, Run
from methods.study.specification import StudyBase, VariantSpec

MACHINE = {
    "versions": {"torch": "2.13.0", "numpy": "2.4.0"},
    "threads": 1,
    "instruction_set": "AVX2",
    "device": "cpu",
    "wall_seconds": 1.5,
    "cpu_seconds": 1.25,
    "peak_memory_bytes": 123_000_000,
    "started": "2020-01-01T00:00:00Z",
    "code_files": {"methods/measure/size.py": "0" * 64},
}


@dataclass
class Workbench:
    """Builds one study: `measured` adds cells, `plan` and `cells` give what the report reads."""

    results: Path
    study: dict[str, Any] = field(default_factory=dict)
    tier: str = "full"
    machine: dict[str, Any] = field(default_factory=lambda: dict(MACHINE))
    code: str = "c0de" * 4
    made: list[Cell] = field(default_factory=list)

    def measured(
        self,
        variant: str,
        metrics: dict[str, list[Metric | float]],
        *,
        setting: str = "default",
        deterministic: bool = False,
        params: dict[str, Any] | None = None,
        history: list[list[dict]] | None = None,
        measure: str = "perplexity",
        higher_is_better: bool | None = False,
    ) -> Workbench:
        """A cell with one value for each seed (a deterministic one: one value for all of them)."""
        seeds = max(len(values) for values in metrics.values())
        data = Run("data", "text", {"dataset": "text", "content": "d0"}, "m:d", None, {}, "")
        for seed in range(seeds):
            spec = {"params": {"method": variant, **(params or {})}, "data": {"setting": setting}}
            step = Run(
                "method",
                variant,
                spec,
                "methods.measure.cost:method",
                None if deterministic else seed,
                {"data:text": data},
                self.code,
            )
            evaluation = Run(
                "evaluate",
                f"{variant}.{measure}",
                {"params": {"measure": measure}, "data": {}},
                "methods.measure.size:measure",
                None,
                {"model": step},
                self.code,
            )
            found = {}
            for name, values in metrics.items():
                value = values[min(seed, len(values) - 1)]
                if not isinstance(value, Metric):
                    value = Metric(value, higher_is_better=higher_is_better)
                found[name] = value
            self.write(data, {})
            self.write(step, {}, history[seed] if history else None)
            self.write(evaluation, found)
            self.made.append(Cell(setting, variant, seed, (step,), (evaluation,)))
        return self

    def write(self, run: Run, found: dict[str, Metric], history: list[dict] | None = None) -> None:
        with artifact.writing(self.results / run.directory) as aside:
            if found:
                metric_files.write(aside / "metrics.json", found)
            if history:
                lines = "\n".join(json.dumps(row) for row in history)
                (aside / "history.jsonl").write_text(lines + "\n")
            meta = {**run.describe(), **self.machine, "files": artifact.list_files(aside)}
            (aside / "meta.json").write_text(json.dumps(meta))

    def plan(self, order: list[int] | None = None) -> Plan:
        variants = {
            name: VariantSpec(steps=[], **self.study.get("variants", {}).get(name, {}))
            for name in dict.fromkeys(
                [*self.study.get("variants", {}), *(cell.variant for cell in self.made)]
            )
        }
        settings = {
            name: self.study.get("settings", {}).get(name, {})
            for name in dict.fromkeys(cell.setting for cell in self.made)
            if name != "default"
        }
        study = StudyBase.model_validate(
            {"study": "demo", "title": "A demonstration", **self.study}
            | {"variants": variants, "settings": settings}
        )
        cells = [self.made[i] for i in order] if order else self.made
        return Plan(Path("configs/studies/demo.yaml"), self.tier, study, tuple(cells), {})

    def cells(self) -> Cells:
        return gather(self.plan(), self.results)


@pytest.fixture
def workbench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path / "results")


@pytest.fixture
def new_workbench(tmp_path: Path):
    """More than one: `new_workbench("name")`."""
    return lambda name="other", **options: Workbench(tmp_path / name, **options)

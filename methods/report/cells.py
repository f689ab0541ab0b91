"""The measured numbers of a study: for each setting and variant, every metric of every seed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from methods.measure.statistics import Interval, interval_from_stderr, mean_interval
from methods.run import metrics as metric_files
from methods.run.artifact import read_meta, sha256
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError, choices
from methods.study.expansion import Cell, Plan, Run
from methods.study.registry import find

Over = Literal["seeds", "units"]
TIME_UNITS = frozenset({"s", "ms", "us", "µs", "ns", "min", "h"})
"""Units of a clock: what no other machine can be asked to reproduce."""
RECORDED = (
    *("versions", "git", "device", "threads", "instruction_set"),
    *("processor", "platform", "cores"),
    *("started", "wall_seconds", "cpu_seconds", "peak_memory_bytes", "code_files", "files"),
)
"""What the report keeps of `meta.json`."""


@dataclass(frozen=True)
class Measurement:
    """One metric of one cell: a value for each seed, or a single one where no seed enters."""

    name: str
    seeds: tuple[int, ...]
    metrics: tuple[Metric, ...]
    runs: tuple[str, ...]
    """`<kind>/<name>` of the run behind each value."""
    deterministic: bool
    """No seed enters the run or anything upstream of it: one value stands for all seeds."""
    comparable: bool = True
    """False for wall-clock figures."""

    @property
    def values(self) -> list[float]:
        """One value for each seed."""
        return [metric.value for metric in self.metrics]

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return self.interval().value

    @property
    def unit(self) -> str:
        """The unit of the value."""
        return self.metrics[0].unit

    @property
    def higher_is_better(self) -> bool | None:
        """Which direction is good, where the measure says so."""
        return self.metrics[0].higher_is_better

    @property
    def exact(self) -> bool:
        """A count, not an estimate: deterministic, and neither an error nor units were reported."""
        only = self.metrics[0]
        return self.deterministic and only.stderr is None and only.values is None

    def count(self) -> float:
        """The value that every seed gave; RetrofitError where the seeds do not agree to the bit."""
        if len(set(self.values)) > 1:
            raise RetrofitError(
                f"'{self.name}' is no count: it lies between {min(self.values)} and "
                f"{max(self.values)} over the seeds, so it cannot be compared over counts"
            )
        return self.values[0]

    def by_seed(self) -> dict[int, float]:
        """Seed → value; a deterministic measurement has the single seed 0."""
        return dict(zip(self.seeds, self.values, strict=True))

    def units(self, seeds: tuple[int, ...] | None = None) -> dict[str, float]:
        """Value of each unit (text window, replicate, test item), averaged over all or some seeds."""
        gathered: dict[str, list[float]] = {}
        for seed, metric in zip(self.seeds, self.metrics, strict=True):
            if seeds is not None and seed not in seeds:
                continue
            values = metric.values or []
            labels = metric.labels or [str(index) for index in range(len(values))]
            for label, value in zip(labels, values, strict=True):
                gathered.setdefault(label, []).append(value)
        return {label: sum(values) / len(values) for label, values in gathered.items()}

    def interval(self, over: Over = "seeds") -> Interval:
        """Mean with its 95 % interval over seeds, or over units.

        Over units, one run's own standard error is used where it has one (a perplexity is no mean of its windows);
        otherwise the units are averaged over seeds first.
        """
        if over == "seeds":
            return mean_interval(self.values)
        only = self.metrics[0]
        if len(self.metrics) == 1 and only.stderr is not None and (only.n or 0) > 1:
            return interval_from_stderr(only.value, only.stderr, only.n)
        units = list(self.units().values())
        return mean_interval(units) if units else mean_interval([mean_interval(self.values).value])


@dataclass(frozen=True)
class CellResult:
    """A variant in a setting: its plan for each seed and everything that was measured."""

    setting: str
    variant: str
    planned: tuple[Cell, ...]
    measurements: dict[str, Measurement]
    deterministic: bool
    """No seed enters the chain of steps."""

    def measurement(self, name: str) -> Measurement | None:
        """The metric of that name, or None where this cell does not have it."""
        return self.measurements.get(name)


@dataclass(frozen=True)
class Cells:
    """Every cell of a plan, in the study's order, with what is known of each run."""

    plan: Plan
    results: Path
    cells: tuple[CellResult, ...]
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """`<kind>/<name>` → the run's description and the machine and times of its `meta.json`."""

    def __iter__(self) -> Iterator[CellResult]:
        return iter(self.cells)

    def get(self, setting: str, variant: str) -> CellResult | None:
        """The cell, or None where the study has none (a setting's `only`, a tier's `only`)."""
        for cell in self.cells:
            if cell.setting == setting and cell.variant == variant:
                return cell
        return None

    @property
    def settings(self) -> list[str]:
        """Settings that have cells, in order."""
        return list(dict.fromkeys(cell.setting for cell in self.cells))

    @property
    def variants(self) -> list[str]:
        """Variants that have cells, in the study's order."""
        present = {cell.variant for cell in self.cells}
        return [name for name in self.plan.study.variants if name in present]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, in order of first appearance."""
        return list(dict.fromkeys(name for cell in self.cells for name in cell.measurements))

    def measures(self, name: str, where: str) -> bool:
        """Whether any cell has the metric.

        A metric may be missing where its data are (one with a facet, `perplexity/moby-dick.test`), and any where the
        tier leaves out variants that may have it.  Otherwise the name is wrong: RetrofitError with the nearest match.
        """
        if name in self.metrics:
            return True
        tier = self.plan.study.tiers.get(self.plan.tier)
        if tier and not (tier.only == tier.settings == ["*"]):
            return False
        kind, _, facet = name.partition("/")
        of_its_kind = any(metric.startswith(f"{kind}/") for metric in self.metrics)
        if of_its_kind and (self.plan.left_out or facet in self._data_of_any_tier()):
            return False
        raise RetrofitError(
            f"{self.plan.path}: {where}: no run measured '{name}'; {choices(name, self.metrics)}"
        )

    def _data_of_any_tier(self) -> set[str]:
        """Every `<data set>.<split>` that the study reads in some tier or setting."""
        study = self.plan.study
        parts = [study, *study.tiers.values(), *study.settings.values()]
        return {ref.set for part in parts for refs in part.data.values() for ref in refs}

    def history(self, cell: CellResult, seed: int) -> list[dict[str, Any]]:
        """Rows of `history.jsonl` of the run that a variant leaves, for one seed."""
        path = self.results / cell.planned[seed].result.directory / "history.jsonl"
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def gather(plan: Plan, results: Path) -> Cells:
    """Read the metrics of every cell of the plan from `<results>/runs`.

    Raises RetrofitError for a run that is missing or damaged, and for a metric that two runs of one cell both give.
    """
    reader = _Reader(plan, results)
    grouped: dict[tuple[str, str], list[Cell]] = {}
    for cell in plan.cells:
        grouped.setdefault((cell.setting, cell.variant), []).append(cell)
    settings, variants = list(plan.study.settings), list(plan.study.variants)
    cells = []
    for setting in settings or ["default"]:
        for variant in variants:
            planned = sorted(grouped.pop((setting, variant), []), key=lambda cell: cell.seed)
            if planned:
                cells.append(reader.cell(setting, variant, tuple(planned)))
    assert not grouped, f"cells of settings or variants that the study does not have: {grouped}"
    records = {
        f"{run.kind}/{run.name}": reader.record(run, needed=False)
        for run in sorted(plan.runs().values(), key=lambda run: (run.kind, run.name))
    }
    if plan.study.ranks:
        from methods.report.ranks import ranked

        cells = ranked(cells, plan.study.ranks)
    return Cells(plan, results, tuple(cells), records)


def depends_on_seed(run: Run) -> bool:
    """Whether a seed enters the run or anything upstream of it."""
    return run.seed is not None or any(depends_on_seed(up) for up in run.upstream.values())


class _Reader:
    def __init__(self, plan: Plan, results: Path):
        self.plan, self.results = plan, results
        self._metrics: dict[str, dict[str, Metric]] = {}

    def cell(self, setting: str, variant: str, planned: tuple[Cell, ...]) -> CellResult:
        found: dict[str, list[tuple[int, Metric, Run]]] = {}
        for cell in planned:
            for name, (metric, run) in self._of_cell(cell).items():
                found.setdefault(name, []).append((cell.seed, metric, run))
        measurements = {name: _measurement(name, rows) for name, rows in found.items()}
        deterministic = not any(depends_on_seed(cell.result) for cell in planned)
        return CellResult(setting, variant, planned, measurements, deterministic)

    def _of_cell(self, cell: Cell) -> dict[str, tuple[Metric, Run]]:
        found: dict[str, tuple[Metric, Run]] = {}
        for run in cell.measured:
            for name, metric in self.read(run).items():
                if name in found and found[name][1].name != run.name:
                    raise RetrofitError(
                        f"{self.plan.path}: variant {cell.variant}: two runs measure '{name}': "
                        f"{found[name][1].name} and {run.name}"
                    )
                found[name] = (metric, run)
        return found

    def read(self, run: Run) -> dict[str, Metric]:
        """The run's metrics; an empty mapping where it measured nothing."""
        if run.name not in self._metrics:
            self.record(run)
            path = self.results / run.directory / "metrics.json"
            self._check(path, run)
            found = metric_files.read(path) if path.is_file() else {}
            for name, metric in found.items():
                if not math.isfinite(metric.value):
                    raise RetrofitError(
                        f"{path}: '{name}' is {metric.value}, which no table can show"
                    )
            self._metrics[run.name] = found
        return self._metrics[run.name]

    def _check(self, path: Path, run: Run) -> None:
        """The file as the run left it; an edited number goes into no table."""
        meta = read_meta(path.parent) or {}
        expected = meta.get("files", {}).get(path.name, {}).get("sha256")
        found = sha256(path) if path.is_file() else None
        if found != expected:
            raise RetrofitError(
                f"{path} is not what {run.name} measured (sha256 {found}, expected {expected}); "
                f"delete {path.parent} and run again"
            )

    def record(self, run: Run, needed: bool = True) -> dict[str, Any]:
        """The run's description with what `meta.json` says of machine and times."""
        directory = self.results / run.directory
        meta = read_meta(directory)
        if meta is None and not needed:
            meta = {
                "key": run.key
            }  # what a finished variant was made from may have been cleared away
        if meta is None:
            raise RetrofitError(
                f"{directory} is missing; make it with: snakemake --config "
                f"study={self.plan.study.study} tier={self.plan.tier}"
            )
        if meta.get("key") != run.key:
            raise RetrofitError(
                f"{directory} holds a run with the key {meta.get('key')}; delete it and run again"
            )
        return {**run.describe(), **{key: meta[key] for key in RECORDED if key in meta}}


def _measurement(name: str, rows: list[tuple[int, Metric, Run]]) -> Measurement:
    comparable = _comparable(rows[0][2], rows[0][1])
    deterministic = not any(depends_on_seed(run) for _, _, run in rows)
    if deterministic:
        rows = rows[:1]
    return Measurement(
        name,
        tuple(seed for seed, _, _ in rows),
        tuple(metric for _, metric, _ in rows),
        tuple(f"{run.kind}/{run.name}" for _, _, run in rows),
        deterministic,
        comparable,
    )


def _comparable(run: Run, metric: Metric) -> bool:
    if metric.unit.partition("/")[0] in TIME_UNITS:
        return False
    if run.kind != "evaluate":
        return True
    return find("measure", run.spec["params"]["measure"]).params.comparable

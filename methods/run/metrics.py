"""One measured quantity, and the file that holds a run's."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from methods.study.errors import RetrofitError


@dataclass(frozen=True)
class Metric:
    """A value with what is needed to judge it.

    `values` are the numbers of single units (text windows, replicates, test items), `labels` their names:
    two runs that measured the same units can then be compared pair by pair.
    """

    value: float
    stderr: float | None = None
    n: int | None = None
    unit: str = ""
    higher_is_better: bool | None = None
    values: list[float] | None = None
    labels: list[str] | None = None

    def __post_init__(self) -> None:
        if (
            self.values is not None
            and self.labels is not None
            and len(self.values) != len(self.labels)
        ):
            raise RetrofitError(
                f"a metric has {len(self.values)} values but {len(self.labels)} labels"
            )


def write(path: Path, metrics: dict[str, Metric]) -> None:
    """Write `metrics.json`; a NaN is refused, because a table must never show one without saying why."""
    for name, metric in metrics.items():
        if math.isnan(metric.value):
            raise RetrofitError(f"metric '{name}' is not a number; the run is not kept")
    rows = {
        name: {k: v for k, v in asdict(metric).items() if v is not None}
        for name, metric in metrics.items()
    }
    path.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(path: Path) -> dict[str, Metric]:
    """Read what `write` wrote."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {name: Metric(**row) for name, row in rows.items()}

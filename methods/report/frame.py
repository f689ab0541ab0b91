"""Every number of a tier with the settings behind it, as one tidy table that pandas reads.

One row for each metric of each cell and seed; a column for every setting of every step, named `<method>.<setting>`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

FILE = "runs.parquet"
PLAIN = (bool, int, float, str)


def frame(documents: list[dict[str, Any]]) -> pandas.DataFrame:
    """The rows of all studies' documents, in their order.

    A metric that one run gives for every seed has a row for each of them. `chain`: the runs that made what was
    measured, as below `results/runs/`; `run`: the one whose `metrics.json` has the number; `cpu_seconds`: of them all.
    A setting that is a list or a mapping stands as JSON.
    """
    import pandas

    rows = [row for found in documents for cell in found["cells"] for row in _rows(found, cell)]
    table = pandas.DataFrame(rows)
    settings = sorted(name for name in table.columns if "." in name)
    typed = {name: _one_type(table[name]) for name in [*settings, "higher_is_better"]}
    return table[[name for name in table.columns if name not in settings] + settings].assign(
        **typed
    )


def write(documents: list[dict[str, Any]], path: Path) -> None:
    """Write the table as Parquet."""
    frame(documents).to_parquet(path, index=False)


def _rows(found: dict[str, Any], cell: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, metric in cell["metrics"].items():
        measured = dict(
            zip(metric["seeds"], zip(metric["values"], metric["runs"], strict=True), strict=True)
        )
        for planned in cell["planned"]:
            seed = planned["seed"]
            value, run = measured[0 if metric["deterministic"] else seed]
            chain = planned["chain"]
            made = [*chain, run] if run not in chain else chain
            rows.append(
                {
                    "study": found["study"],
                    "tier": found["tier"],
                    "setting": cell["setting"],
                    "variant": cell["variant"],
                    "seed": seed,
                    "metric": name,
                    "value": value,
                    "unit": metric["unit"],
                    "higher_is_better": metric["higher_is_better"],
                    "wall_clock": not metric["comparable"],
                    "run": run,
                    "chain": " ".join(chain),
                    "cpu_seconds": sum(found["runs"][one]["cpu_seconds"] for one in made),
                    **_settings(found["runs"][one]["spec"] for one in chain),
                }
            )
    return rows


def _settings(specs: Any) -> dict[str, Any]:
    found = {}
    for spec in specs:
        params = spec.get("params", {})
        method = params.get("method")
        for name, value in params.items():
            if name != "method" and value is not None:
                plain = isinstance(value, PLAIN)
                found[f"{method}.{name}"] = value if plain else json.dumps(value, sort_keys=True)
    return found


def _one_type(column: pandas.Series) -> pandas.Series:
    """Numbers where all are, truths where all are, else text: a Parquet column has one type."""
    kinds = {type(value) for value in column.dropna()}
    if kinds <= {int, float}:
        return column.astype("Float64")
    if kinds == {bool}:
        return column.astype("boolean")
    return column.map(
        lambda value: value if isinstance(value, str) else json.dumps(value), na_action="ignore"
    )

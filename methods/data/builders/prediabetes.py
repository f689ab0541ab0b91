"""MLDataR's PreDiabetes: how far a person is on the way to diabetes at a given age, for several ages.

The paper's outcome for a cutoff c: 3 with diabetes before c, 2 with prediabetes only, 1 with neither.
"""

from __future__ import annotations

import csv
import io
from typing import ClassVar, Literal

import numpy as np

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Table
from methods.data.rda import read_frames

FEATURES = ["Age", "Sex", "IMD_Decile", "BMI", "HbA1C"]
CLASSES = ["neither", "prediabetes", "diabetes"]


class Options(BuilderOptions):
    """The ages at which people are looked at."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"PreDiabetes.csv"}),
        frozenset({"PreDiabetes.rda"}),
    )

    name: Literal["prediabetes"]
    cutoffs: list[int] = [30, 35, 40, 45, 50, 55, 60, 65]

    @property
    def splits(self) -> list[str]:
        """One for each cutoff."""
        return [f"cutoff-{cutoff}" for cutoff in self.cutoffs]


def build(files: dict[str, bytes], options: Options) -> dict[str, Table]:
    """The same people and features in every split, another outcome."""
    columns = _columns(files)
    x = np.column_stack([columns[name] for name in FEATURES])
    diabetes, before = columns["Age_Diabetes"], columns["Age_PreDiabetes"]
    tables = {}
    for split, cutoff in zip(options.splits, options.cutoffs, strict=True):
        y = np.where(diabetes < cutoff, 2, np.where(before < cutoff, 1, 0)).astype(np.int64)
        tables[split] = Table(split, x, y, FEATURES, CLASSES)
    return tables


def _columns(files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """The table's columns as float64, from whichever file there is."""
    if "PreDiabetes.rda" in files:
        columns = read_frames(files["PreDiabetes.rda"])["PreDiabetes"]
    else:
        text = files["PreDiabetes.csv"].decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text)))
        columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}

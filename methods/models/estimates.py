"""What a statistics method leaves behind: one record per replicate, and arrays."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from methods.run.metrics import Metric

RECORDS, ARRAYS = "estimates.csv", "estimates.safetensors"

Value = float | int | str


@dataclass
class Estimates:
    """records: rows with the same keys (numbers or text); arrays by name, any shape and dtype of NumPy."""

    loader: ClassVar[str] = "methods.models.estimates:load"

    records: list[dict[str, Value]]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write `estimates.csv` and, where there are arrays, `estimates.safetensors`."""
        with open(directory / RECORDS, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(self.records[0]) if self.records else [])
            writer.writeheader()
            writer.writerows(self.records)
        if self.arrays:
            arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
            save_file(arrays, directory / ARRAYS)


def load(directory: Path) -> Estimates:
    """Read what `Estimates.save` wrote; columns of numbers come back as numbers."""
    with open(directory / RECORDS, encoding="utf-8", newline="") as file:
        records = [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]
    arrays = load_file(directory / ARRAYS) if (directory / ARRAYS).is_file() else {}
    return Estimates(records, arrays)


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

"""A connectome from an edge list: for each type of contact one square table, cells by cells.

Row i, column j is the weight of the contact from cell i onto cell j, rows in the order of the columns.  The class
says what the cell of the row is.
"""

from __future__ import annotations

import csv
import io
import re
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Table

CLASSES = ["other cell", "excitatory neuron", "inhibitory neuron"]
HEADER = ["Source", "Target", "Weight", "Type"]


class Options(BuilderOptions):
    """Which cells are neurons, and which of them inhibit."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"edges.csv"}),)

    name: Literal["connectome"]
    types: list[str] = Field(["chemical", "electrical"], min_length=1)
    """Types of contact in the file; each makes a split."""
    neuron: str = "[A-Z0-9]+"
    """Regular expression that a neuron's whole name matches; other cells are muscles, glands and the like."""
    inhibitory: list[str] = []
    """Neurons whose transmitter inhibits; all others are taken as excitatory."""

    @field_validator("neuron")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"'{value}' is no regular expression: {error}") from None
        return value

    @property
    def splits(self) -> list[str]:
        """One for each type of contact."""
        return list(self.types)


def build(files: dict[str, bytes], options: Options) -> dict[str, Table]:
    """The same cells in every split; an unknown type, weight or inhibitory neuron is an error."""
    edges = _edges(files["edges.csv"].decode("utf-8-sig"))
    cells = sorted({cell for source, target, _, _ in edges for cell in (source, target)})
    number = {cell: index for index, cell in enumerate(cells)}
    found = {kind: np.zeros((len(cells), len(cells))) for kind in options.types}
    for source, target, weight, kind in edges:
        if kind not in found:
            raise ValueError(f"{source} -> {target} is of the undeclared type '{kind}'")
        found[kind][number[source], number[target]] += weight
    y = _classes(cells, options)
    return {kind: Table(kind, x, y, cells, CLASSES) for kind, x in found.items()}


def _edges(text: str) -> list[tuple[str, str, float, str]]:
    header, *rows = csv.reader(io.StringIO(text))
    if [name.strip() for name in header] != HEADER:
        raise ValueError(f"expected the columns {', '.join(HEADER)}, found {', '.join(header)}")
    edges = []
    for row in rows:
        source, target, weight, kind = (value.strip() for value in row)
        if not float(weight) > 0 or not np.isfinite(float(weight)):
            raise ValueError(f"{source} -> {target} has the weight {weight}; expected above 0")
        edges.append((source, target, float(weight), kind))
    return edges


def _classes(cells: list[str], options: Options) -> np.ndarray:
    unknown = sorted(set(options.inhibitory) - set(cells))
    if unknown:
        raise ValueError(f"the inhibitory neuron {unknown[0]} is not in the file")
    neuron = re.compile(options.neuron)
    kinds = [
        2 if cell in options.inhibitory else 1 if neuron.fullmatch(cell) else 0 for cell in cells
    ]
    return np.array(kinds, dtype=np.int64)

"""Texts and their classes from delimited files (CSV, tab-separated): one column is the text, one the class."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from methods.data.builders.options import BuilderOptions, check_shares
from methods.data.kinds import LabelledText
from methods.data.labelled import Row, collected, divided

LONGEST_FIELD = 50_000_000
"""Characters; the csv module's own limit is shorter than some documents."""


class Options(BuilderOptions):
    """Which files are which splits, and where text and class stand."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset(),)

    name: Literal["labelled-columns"]
    of: dict[str, str] = {}
    """{split: file}, where the files are the splits."""
    file: str | None = None
    """One file with everything, divided by `shares` or by `split_column`."""
    shares: dict[str, float] = {"train": 0.8, "test": 0.2}
    """{split: share} of a single file, by the hash of the text."""
    split_column: str | None = None
    """The column of a single file that names the split of each row."""
    split_names: dict[str, str] = {}
    """{value of `split_column`: split}; rows with other values are left out."""
    text: str
    pair: str | None = None
    """The column of the second text, where the task has two."""
    label: str
    classes: dict[str, str] = {}
    """{value in the file: name of the class}; rows with other values are left out. Empty: as found."""
    delimiter: Literal[",", "\t", ";"] = ","
    encoding: Literal["utf-8", "utf-8-sig", "latin-1"] = "utf-8"
    skip: int = Field(0, ge=0)
    """Rows after the header that are no data."""

    @field_validator("shares")
    @classmethod
    def _add_up(cls, shares: dict[str, float]) -> dict[str, float]:
        return check_shares(shares)

    @model_validator(mode="after")
    def _one_way_to_split(self) -> Options:
        if bool(self.of) == (self.file is not None):
            raise ValueError("give either `of` (a file for each split) or `file` (one for all)")
        if (self.split_column is None) != (not self.split_names):
            raise ValueError("split_column and split_names go together")
        return self

    @property
    def splits(self) -> list[str]:
        """As declared."""
        if self.of:
            return list(self.of)
        return list(dict.fromkeys(self.split_names.values())) or list(self.shares)


def build(files: dict[str, bytes], options: Options) -> dict[str, LabelledText]:
    """Rows in the order of the file. Raises ValueError: a column that is not there, a split without rows."""
    order = list(dict.fromkeys(options.classes.values())) or None
    if options.of:
        made = {split: _rows(files, file, options) for split, file in options.of.items()}
        return collected({split: [row for _, row in rows] for split, rows in made.items()}, order)
    rows = list(_rows(files, options.file, options))
    if options.split_column is None:
        return divided([row for _, row in rows], options.shares, order)
    splits: dict[str, list[Row]] = {split: [] for split in options.splits}
    for value, row in rows:
        if value in options.split_names:
            splits[options.split_names[value]].append(row)
    return collected(splits, order)


def _rows(files: dict[str, bytes], file: str, options: Options) -> Iterator[tuple[str, Row]]:
    """(value of the split column, row)."""
    csv.field_size_limit(LONGEST_FIELD)
    text = files[file].decode(options.encoding)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=options.delimiter)
    header = next(reader, [])
    wanted = [options.text, options.label]
    wanted += [options.pair] if options.pair else []
    wanted += [options.split_column] if options.split_column else []
    for column in wanted:
        if column not in header:
            raise ValueError(f"{file} has no column '{column}', only {', '.join(header)}")
    place = {column: header.index(column) for column in wanted}
    for number, cells in enumerate(reader):
        if number < options.skip or len(cells) <= max(place.values()):
            continue
        label = cells[place[options.label]].strip()
        if options.classes and label not in options.classes:
            continue
        label = options.classes.get(label, label)
        row = (cells[place[options.text]].strip(), label)
        if options.pair:
            row = (*row, cells[place[options.pair]].strip())
        yield cells[place[options.split_column]] if options.split_column else "", row

"""A data frame of R as a table with an ordered outcome: numbers kept, words as dummy columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from methods.data.builders.options import BuilderOptions
from methods.data.frames import read_frame
from methods.data.kinds import Table

if TYPE_CHECKING:
    import pandas


class Options(BuilderOptions):
    """Which columns, and the order of the outcome."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"frame.pickle"}),)

    name: Literal["ordinal-table"]
    outcome: str
    classes: dict[str, str] = Field(min_length=2)
    """{value in the file: its name}, from the first to the last (rare) class."""
    numeric: list[str] = []
    categorical: list[str] = []
    """Each becomes one dummy column for every value but the first in sorted order."""

    @model_validator(mode="after")
    def _has_columns(self) -> Options:
        if not self.numeric + self.categorical:
            raise ValueError("numeric or categorical must name at least one column")
        return self

    @property
    def splits(self) -> list[str]:
        """All rows; methods draw their own splits."""
        return ["all"]


def build(files: dict[str, bytes], options: Options) -> dict[str, Table]:
    """One table with every row; a missing column, value or unknown class is an error."""
    frame = read_frame(files["frame.pickle"])
    wanted = [*options.numeric, *options.categorical, options.outcome]
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise ValueError(
            f"there is no column {missing[0]}; the file has {', '.join(map(str, frame.columns))}"
        )
    names, columns = _features(frame, options)
    outcome = frame[options.outcome].astype(str)
    codes = {value: code for code, value in enumerate(options.classes)}
    unknown = sorted(set(outcome) - codes.keys())
    if unknown:
        raise ValueError(
            f"{options.outcome} has the value {unknown[0]}, which is no declared class"
        )
    y = outcome.map(codes).to_numpy(np.int64)
    return {"all": Table("all", np.column_stack(columns), y, names, list(options.classes.values()))}


def _features(frame: pandas.DataFrame, options: Options) -> tuple[list[str], list[np.ndarray]]:
    names, columns = [], []
    for name in options.numeric:
        names.append(name)
        columns.append(frame[name].to_numpy(np.float64))
    for name in options.categorical:
        values = frame[name]
        if values.isna().any():
            raise ValueError(f"{name} has missing values")
        for level in sorted(values.unique())[1:]:
            names.append(f"{name}={level}")
            columns.append((values == level).to_numpy(np.float64))
    return names, columns

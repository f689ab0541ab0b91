"""The 8x8 digits that ship with scikit-learn: small enough for tests."""

from __future__ import annotations

import io
from typing import ClassVar, Literal

import numpy as np

from methods.data.builders.options import BuilderOptions, every_fifth
from methods.data.kinds import Images


class Options(BuilderOptions):
    """Nothing to choose: of every digit the fifth, tenth, … image is for testing."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"digits.csv"}),)

    name: Literal["digits-csv"]

    @property
    def splits(self) -> list[str]:
        """train and test."""
        return ["train", "test"]


def build(files: dict[str, bytes], options: Options) -> dict[str, Images]:
    """Pixels from 0..16 to 0..255 (times 15, so that they stay whole); stratified splits."""
    table = np.loadtxt(io.BytesIO(files["digits.csv"]), delimiter=",", ndmin=2)
    if table.shape[1] != 65 or table[:, :-1].min() < 0 or table[:, :-1].max() > 16:
        raise ValueError("expected 64 pixels from 0 to 16 and a label in each row")
    x = (table[:, :-1] * 15).astype(np.uint8).reshape(-1, 8, 8)
    y = table[:, -1].astype(np.int64)
    classes = [str(digit) for digit in range(10)]
    return {
        split: Images(split, x[rows], y[rows], classes)
        for split, rows in zip(options.splits, every_fifth(y.tolist()), strict=True)
    }

"""What a split of a data set is in memory.

Apart from `formats`, so that another kind or another way to store one moves the key of no run that has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Text:
    """Documents with their titles, both in the order of the file."""

    name: str
    documents: list[str]
    titles: list[str]


@dataclass(frozen=True)
class Images:
    """`x`: uint8 [n, height, width] or [n, height, width, channels]; `y`: int64 [n], an index into `classes`."""

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: list[str]


@dataclass(frozen=True)
class LabelledText:
    """Texts with a class each: `y` int64 [n], an index into `classes`; `pairs` are second texts, where a task has
    two (one for each document).
    """

    name: str
    documents: list[str]
    y: np.ndarray
    classes: list[str]
    pairs: list[str] | None = None


@dataclass(frozen=True)
class Scenes:
    """Images of any size, uint8 [height, width, 3], with the points marked in each, float64 [k, 2] as (x, y) in
    pixels from the upper left corner; k may be 0. `titles` name the images.
    """

    name: str
    images: list[np.ndarray]
    points: list[np.ndarray]
    titles: list[str]


@dataclass(frozen=True)
class Table:
    """`x`: float64 [n, len(columns)]; `y`: int64 [n], 0..K-1, an index into `classes` (lowest class first)."""

    name: str
    x: np.ndarray
    y: np.ndarray
    columns: list[str]
    classes: list[str]


Split = Text | LabelledText | Images | Scenes | Table

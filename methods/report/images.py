"""Pictures that runs keep beside their payload, one row for each variant."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np

from methods.report.cells import CellResult
from methods.run.artifact import read_meta, sha256
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.report.figures import Selection
    from methods.report.plots import Drawn

FOLDER = "pictures"
WIDTH = 7.2
"""Inches of the whole figure."""
LABEL = 0.34
"""Inches above each row for what is written over its pictures."""
Row = tuple[str, list[tuple[np.ndarray, str]]]
"""The row's name, and its pictures [h, w, 3] with their titles."""


def images(selection: Selection) -> Drawn | None:
    """Every picture whose name matches `y`, of each variant's first seed; the PNG's text `Title` stands above it."""
    from matplotlib import pyplot

    rows = [
        (_name(selection, setting, cell), found)
        for setting in selection.settings
        for cell in selection.of(setting)
        if (found := _pictures(selection, cell))
    ]
    if not rows:
        return None
    columns = max(len(found) for _, found in rows)
    heights = [_tallest(found) * WIDTH / columns + LABEL for _, found in rows]
    canvas, grid = pyplot.subplots(
        len(rows),
        columns,
        figsize=(WIDTH, sum(heights)),
        squeeze=False,
        height_ratios=heights,
    )
    for axes, (name, found) in zip(grid, rows, strict=True):
        for number, ax in enumerate(axes):
            ax.set_axis_off()
            if number < len(found):
                picture, title = found[number]
                # In a vector file "none" keeps the picture's own pixels.
                ax.imshow(picture, interpolation="none")
                ax.set_title(f"{name}: {title}" if not number else title, fontsize=7, loc="left")
    return canvas, _words(rows), {}


def _name(selection: Selection, setting: str, cell: CellResult) -> str:
    where = selection.panel_title(setting)
    label = selection.label(cell.variant)
    return f"{where}, {label}" if where else label


def _pictures(selection: Selection, cell: CellResult) -> list[tuple[np.ndarray, str]]:
    """Pictures and titles; RetrofitError for a file that is not what the run left."""
    from PIL import Image

    directory = selection.cells.results / cell.planned[0].result.directory
    known = (read_meta(directory) or {}).get("files", {})
    found = []
    for path in sorted((directory / FOLDER).glob("*.png")):
        if not fnmatchcase(path.stem, selection.figure.y):
            continue
        entry = known.get(path.relative_to(directory).as_posix(), {})
        if entry.get("sha256") != sha256(path):
            raise RetrofitError(
                f"{path} is not what its run left; delete {directory} and run again"
            )
        with Image.open(path) as picture:
            found.append((np.asarray(picture.convert("RGB")), picture.info.get("Title", path.stem)))
    return found


def _tallest(found: list[tuple[np.ndarray, str]]) -> float:
    """Largest height as a share of the width."""
    return max(picture.shape[0] / picture.shape[1] for picture, _ in found)


def _words(rows: list[Row]) -> str:
    return (
        ". ".join(f"{name}: {'; '.join(title for _, title in found)}" for name, found in rows) + "."
    )

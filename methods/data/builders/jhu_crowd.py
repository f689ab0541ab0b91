"""JHU-CROWD++ (version 2.0) in its published layout: `train/images/0003.jpg`, `train/gt/0003.txt`; so `val`, `test`.

A line of the text is one head: x, y, width, height, occlusion, blur; an empty file has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from methods.data import scenes
from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Scenes

FOLDER = "jhu-crowd/"
SPLITS = {"train": "train", "validation": "val", "test": "test"}


class Options(BuilderOptions):
    """How large images may be."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({FOLDER}),)

    name: Literal["jhu-crowd"]
    longest: int | None = Field(2048, ge=64)
    """Images with a longer side are scaled down to it, and their points with them."""

    @property
    def splits(self) -> list[str]:
        """As published."""
        return list(SPLITS)


def build(files: dict[str, Path], options: Options) -> dict[str, Scenes]:
    """Images by number; ValueError names what is missing or broken."""
    return {
        split: _split(files[FOLDER] / folder, split, options.longest)
        for split, folder in SPLITS.items()
    }


def _split(folder: Path, name: str, longest: int | None) -> Scenes:
    images = scenes.images_in(folder / "images")
    annotations = {file.stem: file for file in (folder / "gt").glob("*.txt")}
    scenes.paired(images, annotations, folder)
    items = [(stem, file, lambda s=stem: points(annotations[s])) for stem, file in images.items()]
    return scenes.gathered(name, items, longest)


def points(file: Path) -> np.ndarray:
    """float64 [k, 2]: the first two numbers of every line."""
    found = []
    for number, line in enumerate(scenes.read_text(file).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            found.append([float(words[0]), float(words[1])])
        except (ValueError, IndexError):
            raise ValueError(f"{file}, line {number}: no point in '{line[:40]}'") from None
    return np.array(found, np.float64).reshape(-1, 2)

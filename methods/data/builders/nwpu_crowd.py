"""NWPU-Crowd in its published layout: `images_part1` to `5`, `mats/<id>.mat`, lists `train.txt` and `val.txt`.

The annotations of its test images are withheld by its authors, so `val` is the test here.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from methods.data import scenes
from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Scenes

FOLDER = "nwpu-crowd/"
SPLITS = {"train": "train.txt", "test": "val.txt"}
PARTS = 5


class Options(BuilderOptions):
    """How large images may be."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({FOLDER}),)

    name: Literal["nwpu-crowd"]
    longest: int | None = Field(2048, ge=64)
    """Images with a longer side are scaled down to it, and their points with them."""

    @property
    def splits(self) -> list[str]:
        """The annotated ones."""
        return list(SPLITS)


def build(files: dict[str, Path], options: Options) -> dict[str, Scenes]:
    """Images in the order of the lists; ValueError names what is missing or broken."""
    root = files[FOLDER]
    return {split: _split(root, list_, split, options.longest) for split, list_ in SPLITS.items()}


def _split(root: Path, list_: str, name: str, longest: int | None) -> Scenes:
    names = [
        line.split()[0] for line in scenes.read_text(root / list_).splitlines() if line.split()
    ]
    if wrong := [word for word in names if not word.isdigit()]:
        raise ValueError(f"{root / list_}: '{wrong[0]}' is no number of an image")
    images = {word: file for word in names if (file := place(root, word)).is_file()}
    annotations = {w: file for w in names if (file := root / "mats" / f"{w}.mat").is_file()}
    scenes.paired(images, annotations, root / list_)
    if lost := [word for word in names if word not in images]:
        raise ValueError(f"{root / list_} names {lost[0]}, which has neither image nor annotation")
    items = [(word, images[word], lambda w=word: _points(annotations[w])) for word in names]
    return scenes.gathered(name, items, longest)


def place(root: Path, number: str) -> Path:
    """The image's file: a thousand to a part, the last of which has the rest."""
    part = min(PARTS, max(1, -(-int(number) // 1000)))
    return root / f"images_part{part}" / f"{number}.jpg"


def _points(file: Path):
    return scenes.matlab(scenes.as_points(scenes.read_mat(file, "annPoints"), file))

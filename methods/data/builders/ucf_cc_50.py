"""UCF_CC_50 in its published layout: `1.jpg` and `1_ann.mat` to 50 in one folder, for five-fold cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from methods.data import scenes
from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Scenes

FOLDER = "ucf_cc_50/"
FOLDS = 5


class Options(BuilderOptions):
    """Which fold is the test."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({FOLDER}),)

    name: Literal["ucf-cc-50"]
    longest: int | None = Field(None, ge=64)
    """Images with a longer side are scaled down to it, and their points with them."""

    @property
    def splits(self) -> list[str]:
        """`train-k` and `test-k` for each fold k."""
        return [f"{split}-{fold}" for fold in range(1, FOLDS + 1) for split in ("train", "test")]


def build(files: dict[str, Path], options: Options) -> dict[str, Scenes]:
    """Folds are consecutive images by number; ValueError names what is missing or broken."""
    folder = files[FOLDER]
    images = scenes.images_in(folder)
    annotations = {f.stem.removesuffix("_ann"): f for f in folder.glob("*_ann.mat")}
    scenes.paired(images, annotations, folder)
    items = [(stem, file, lambda f=annotations[stem]: _points(f)) for stem, file in images.items()]
    whole = scenes.gathered("all", items, options.longest)
    count = len(items)
    found = {}
    for fold in range(FOLDS):
        test = range(fold * count // FOLDS, (fold + 1) * count // FOLDS)
        rest = [row for row in range(count) if row not in test]
        found[f"train-{fold + 1}"] = _rows(whole, rest)
        found[f"test-{fold + 1}"] = _rows(whole, list(test))
    return found


def _points(file: Path):
    return scenes.matlab(scenes.as_points(scenes.read_mat(file, "annPoints"), file))


def _rows(whole: Scenes, rows: list[int]) -> Scenes:
    parts = ([part[row] for row in rows] for part in (whole.images, whole.points, whole.titles))
    return Scenes(whole.name, *parts)

"""A user's own images with points: one folder for each split, in it the images and a file `points.csv` (image,x,y)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from methods.data import scenes
from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Scenes

FOLDER = "images/"


class Options(BuilderOptions):
    """Which folders, and how large images may be."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({FOLDER}),)

    name: Literal["point-folder"]
    folders: dict[str, str] = Field({"train": "train", "test": "test"}, min_length=1)
    """Split → folder inside `images/`."""
    points: str = "points.csv"
    """The file of points in each of these folders."""
    longest: int | None = Field(None, ge=32)
    """Images with a longer side are scaled down to it, and their points with them."""

    @property
    def splits(self) -> list[str]:
        """The keys of `folders`."""
        return list(self.folders)

    @field_validator("folders")
    @classmethod
    def _stay_inside(cls, paths: dict[str, str]) -> dict[str, str]:
        for path in paths.values():
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise ValueError(f"'{path}' does not lie inside {FOLDER}")
        return paths


def build(files: dict[str, Path], options: Options) -> dict[str, Scenes]:
    """Images by name; ValueError names what is missing or broken."""
    return {
        split: scenes.read_folder(files[FOLDER] / folder, options.points, split, options.longest)
        for split, folder in options.folders.items()
    }

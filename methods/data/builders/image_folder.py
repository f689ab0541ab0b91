"""A folder of images: one folder for each split, one folder in it for each class (the layout of ImageNet).

Every image is decoded, turned as its EXIF entry says, scaled so that its shorter side is `resize` and cut to its
middle, so that a split is one array. A split whose images lie in one folder without classes, as ImageNet's
validation images are published, takes their classes from a table of (file, class).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Images
from methods.run.progress import track
from methods.study.errors import choices

FOLDER = "images/"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
MODES = {1: "L", 3: "RGB"}
Items = list[tuple[Path, str]]
"""(file, class in words)."""


class Options(BuilderOptions):
    """What becomes of the images."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({FOLDER}),)

    name: Literal["image-folder"]
    folders: dict[str, str] = Field({"train": "train", "test": "test"}, min_length=1)
    """Split → folder inside `images/`."""
    labels: dict[str, str] = {}
    """Split → CSV file inside `images/` whose rows give a file's name (with or without suffix) and its class,
    the first word of the second column, under a heading."""
    side: int = Field(224, ge=8, le=1024)
    """Height and width of the images, in pixels."""
    resize: int | None = Field(None, ge=8, le=2048)
    """Shorter side before the middle is cut out; null: `side`. Usual for ImageNet: 256 for a side of 224."""
    channels: Literal[1, 3] = 3
    per_class: int | None = Field(None, ge=1)
    """At most so many images of a class, the first ones by name; null: all."""

    @property
    def splits(self) -> list[str]:
        """The keys of `folders`."""
        return list(self.folders)

    @field_validator("folders", "labels")
    @classmethod
    def _stay_inside(cls, paths: dict[str, str]) -> dict[str, str]:
        for path in paths.values():
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise ValueError(f"'{path}' does not lie inside {FOLDER}")
        return paths

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        for split in self.labels:
            if split not in self.folders:
                raise ValueError(
                    f"labels for the split '{split}'; {choices(split, list(self.folders))}"
                )
        if set(self.labels) == set(self.folders):
            raise ValueError(
                "one split at least has a folder for each class, which names the classes"
            )
        if self.resize is not None and self.resize < self.side:
            raise ValueError(f"resize {self.resize} is smaller than side {self.side}")
        return self


def build(files: dict[str, Path], options: Options) -> dict[str, Images]:
    """uint8 [n, side, side(, 3)] by path; classes by name, those of all splits with folders of classes.

    Raises ValueError for a missing folder, no images, a class that is in no folder, a file that is no image, and
    for more pixels than half of this machine's memory.
    """
    root = files[FOLDER]
    found: dict[str, Items] = {}
    for split, folder in options.folders.items():
        if split not in options.labels:
            found[split] = _by_folder(root / folder)
    classes = sorted({label for items in found.values() for _, label in items})
    for split, table in options.labels.items():
        found[split] = _by_table(root / options.folders[split], root / table, classes)
    chosen = {split: _first(found[split], options.per_class) for split in options.folders}
    _fits(sum(map(len, chosen.values())), options)
    return {split: _images(split, items, classes, options) for split, items in chosen.items()}


def _by_folder(folder: Path) -> Items:
    _exists(folder)
    items = [
        (file, inside.name)
        for inside in sorted(folder.iterdir())
        if inside.is_dir() and not inside.name.startswith(".")
        for file in _files(inside)
    ]
    if not items:
        raise ValueError(
            f"{folder} has no images in folders by class ({', '.join(sorted(SUFFIXES))})"
        )
    return items


def _by_table(folder: Path, table: Path, classes: list[str]) -> Items:
    _exists(folder)
    with open(table, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file) if row][1:]
    if any(len(row) < 2 or not row[1].split() for row in rows):
        raise ValueError(f"{table}: every row needs a file and a class")
    labels = {Path(row[0]).name: row[1].split()[0] for row in rows}
    items = []
    for file in _files(folder):
        label = labels.get(file.name, labels.get(file.stem))
        if label is None:
            raise ValueError(f"{table} has no class for {file.name}")
        if label not in classes:
            raise ValueError(f"{table}: class '{label}' of {file.name} has no folder of images")
        items.append((file, label))
    if not items:
        raise ValueError(f"{folder} has no images")
    return items


def _exists(folder: Path) -> None:
    if not folder.is_dir():
        beside = sorted(path.name for path in folder.parent.glob("*/"))
        raise ValueError(f"there is no folder {folder}; {choices(folder.name, beside)}")


def _files(folder: Path) -> Iterator[Path]:
    """Images of a folder and of the folders in it, by name; what begins with a dot is none."""
    for directory, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(directory) / name


def _first(items: Items, per_class: int | None) -> Items:
    if per_class is None:
        return items
    seen: dict[str, int] = {}
    kept = []
    for file, label in items:
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= per_class:
            kept.append((file, label))
    return kept


def _fits(count: int, options: Options) -> None:
    needed = count * options.side**2 * options.channels
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if needed > half:
        possible = int((half / count / options.channels) ** 0.5)
        raise ValueError(
            f"{count} images of {options.side} pixels need {needed / 1e9:.0f} GB, and half of this machine's "
            f"memory is {half / 1e9:.0f} GB; `side: {possible}` or `per_class` would fit"
        )


def _images(split: str, items: Items, classes: list[str], options: Options) -> Images:
    shape = (options.side, options.side, 3)[: 2 + (options.channels == 3)]
    x = np.empty((len(items), *shape), np.uint8)
    index = {name: number for number, name in enumerate(classes)}
    for row, (file, _) in enumerate(track(items, label=f"{split} images")):
        x[row] = _pixels(file, options)
    return Images(split, x, np.array([index[label] for _, label in items], np.int64), classes)


def _pixels(file: Path, options: Options) -> np.ndarray:
    import warnings

    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        # What Pillow warns of is an image that would fill the memory.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file) as opened:
                image = ImageOps.exif_transpose(opened).convert(MODES[options.channels])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Warning) as error:
            raise ValueError(f"{file} is no image that can be read: {error}") from None
    shorter = options.resize or options.side
    factor = shorter / min(image.size)
    size = tuple(max(shorter, round(length * factor)) for length in image.size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = ((length - options.side) // 2 for length in size)
    return np.asarray(image.crop((left, top, left + options.side, top + options.side)))

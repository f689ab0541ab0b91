"""Images with Pascal VOC boxes, cut into tiles; the middle of a box is the point.

A split is made of vertical strips of the images, so that no piece of ground is in two splits. Boxes count where their
middle is. The annotations are XML; one with a document type, which could name entities, is refused.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from methods.data import scenes
from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Scenes
from methods.study.spec_model import SpecModel

LARGEST_XML = 16_000_000


class Strip(SpecModel):
    """A part of an image from top to bottom."""

    image: str
    """File name without its suffix; `<image>.png` and `<image>.xml` are read."""
    columns: list[float] = Field([0.0, 1.0], min_length=2, max_length=2)
    """From and to, as shares of the width."""

    @model_validator(mode="after")
    def _ordered(self) -> Strip:
        first, last = self.columns
        if not 0 <= first < last <= 1:
            raise ValueError(f"columns {first} to {last}: must ascend within 0..1")
        return self


class Options(BuilderOptions):
    """Which strips make which split, and the tiles' size."""

    name: Literal["voc-scenes"]
    strips: dict[str, list[Strip]] = Field(min_length=1)
    """{split: strips}; strips of one image must not overlap."""
    shrink: int = Field(1, ge=1, le=16)
    """Images are scaled down by this factor."""
    tile: int = Field(256, ge=32)
    """About how many pixels a tile's side has after that; strips are cut evenly."""

    @model_validator(mode="after")
    def _apart(self) -> Options:
        every = [strip for strips in self.strips.values() for strip in strips]
        every.sort(key=lambda strip: (strip.image, strip.columns))
        for one, other in pairwise(every):
            if one.image == other.image and one.columns[1] > other.columns[0]:
                raise ValueError(
                    f"two strips of {one.image} overlap: {one.columns}, {other.columns}"
                )
        return self

    @property
    def needs(self) -> tuple[frozenset[str], ...]:
        """The image and its annotation, for each."""
        images = {strip.image for strips in self.strips.values() for strip in strips}
        return (frozenset(f"{name}{end}" for name in images for end in (".png", ".xml")),)

    @property
    def splits(self) -> list[str]:
        """As declared."""
        return list(self.strips)


def build(files: dict[str, bytes], options: Options) -> dict[str, Scenes]:
    """Tiles row by row; ValueError names a file that is broken."""
    found = {}
    for split, strips in options.strips.items():
        images, points, titles = [], [], []
        for strip in strips:
            whole = _read(files, strip.image, options.shrink)
            for tile, inside, place in tiles(*whole, strip.columns, options.tile):
                images.append(tile)
                points.append(inside)
                titles.append(f"{strip.image} {place}")
        found[split] = Scenes(split, images, points, titles)
    return found


def _read(files: dict[str, bytes], name: str, shrink: int) -> scenes.Read:
    image = scenes.decoded(files[f"{name}.png"], f"{name}.png")
    return np.asarray(image.reduce(shrink)), centres(files[f"{name}.xml"], f"{name}.xml") / shrink


def tiles(image: np.ndarray, points: np.ndarray, columns: list[float], side: int):
    """Yield (tile, its points, "row r column c") of a strip."""
    height, width = image.shape[:2]
    first, last = (round(share * width) for share in columns)
    down, across = (max(1, round(length / side)) for length in (height, last - first))
    rows = np.linspace(0, height, down + 1).round().astype(int)
    edges = np.linspace(first, last, across + 1).round().astype(int)
    for top, bottom in pairwise(rows):
        for left, right in pairwise(edges):
            corner = np.array([left, top], np.float64)
            inside = ((points >= corner) & (points < [right, bottom])).all(1)
            tile = np.ascontiguousarray(image[top:bottom, left:right])
            yield tile, points[inside] - corner, f"row {top} column {left}"


def centres(body: bytes, name: str) -> np.ndarray:
    """float64 [k, 2]: the middles of the boxes of a VOC file."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not in UTF-8") from None
    if len(body) > LARGEST_XML or "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{name} is too large or has a document type, which no annotation needs")
    try:
        root = ElementTree.fromstring(text)
        boxes = [
            [float(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")]
            for box in root.iter("bndbox")
        ]
    except (ElementTree.ParseError, TypeError, ValueError) as error:
        raise ValueError(f"{name} is no VOC annotation: {error}") from None
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    return (corners[:, :2] + corners[:, 2:]) / 2

"""Crowds of cut-out objects on photographs: small, with perspective, in clusters, every position known exactly.

A crowd is a Thomas process: the number of objects is a Gamma-mixed Poisson number (a negative binomial), clusters have
a middle each and objects lie around them. Size grows from the horizon downwards, and what is nearer covers what is
farther. Objects may cover one another; each is counted, with its middle as the point. No object and no photograph is in
two splits. Numbers come from Python's Mersenne Twister, seeded for each image, and everything is decided by hashes of
names as in `cutouts`.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from methods.data.archives import ArchiveError, members_under
from methods.data.builders.cutouts import distinct, picture
from methods.data.builders.options import BuilderOptions, by_hash, check_shares
from methods.data.kinds import Scenes

if TYPE_CHECKING:
    from PIL.Image import Image

OVERSAMPLING = 2
"""Images are composed at this multiple of their size and averaged down."""
HORIZON = 0.15
"""Nothing stands above this share of the height."""


class Options(BuilderOptions):
    """Where objects and photographs are, and how crowds are made of them."""

    name: Literal["crowd-scenes"]
    width: int = Field(160, ge=64, le=240)
    """Of an image, in pixels; three quarters of it are its height. Twice as much is cut from a photograph."""
    objects: dict[str, list[str]] = Field(min_length=1)
    """{file (a Debian package): folders of cut-outs in it}."""
    scenes: dict[str, list[str]] = Field(min_length=1)
    """{file: folders} of the photographs."""
    leave_out: list[str] = []
    """Objects whose path contains one of these are left out."""
    shares: dict[str, float]
    """Share of the objects, and of the photographs, by split."""
    images: dict[str, int]
    """Number of images by split."""
    mean: float = Field(24.0, gt=0, le=500)
    """Expected number of objects in an image."""
    shape: float = Field(1.5, gt=0)
    """Of the Gamma distribution of that number's rate: small is uneven."""
    cluster: float = Field(8.0, gt=0)
    """Expected objects in a cluster."""
    spread: float = Field(0.12, gt=0)
    """Deviation of a cluster, as a share of the height, at the bottom of the image."""
    largest: float = Field(0.2, gt=0, le=0.5)
    """Height of an object at the bottom, as a share of the image's."""
    smallest: float = Field(0.05, gt=0, le=0.5)
    """The same at the horizon."""

    @field_validator("shares")
    @classmethod
    def _whole(cls, shares: dict[str, float]) -> dict[str, float]:
        return check_shares(shares)

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if self.shares.keys() != self.images.keys():
            raise ValueError(
                f"`shares` has the splits {sorted(self.shares)}, `images` {sorted(self.images)}"
            )
        if self.smallest > self.largest:
            raise ValueError(f"smallest {self.smallest} is above largest {self.largest}")
        return self

    @property
    def height(self) -> int:
        """Of an image, in pixels."""
        return self.width * 3 // 4

    @property
    def needs(self) -> tuple[frozenset[str], ...]:
        """All packages."""
        return (frozenset(self.objects) | frozenset(self.scenes),)

    @property
    def splits(self) -> list[str]:
        """As declared."""
        return list(self.shares)


def build(files: dict[str, bytes], options: Options) -> dict[str, Scenes]:
    """Images by split; ValueError where a folder holds nothing usable or a split would get nothing."""
    side = math.ceil(2 * options.largest * options.height * OVERSAMPLING)
    objects = _by_split(files, options.objects, options, side)
    photographs = _by_split(files, options.scenes, options, None)
    found = {}
    for split, count in options.images.items():
        made = [
            rendered(random.Random(f"{split} {i}"), objects[split], photographs[split], options)
            for i in range(count)
        ]
        titles = [f"{split} {i}" for i in range(count)]
        found[split] = Scenes(split, [x for x, _ in made], [p for _, p in made], titles)
    return found


def rendered(
    draw: random.Random, objects: list[Image], photographs: list[Image], options: Options
) -> tuple[np.ndarray, np.ndarray]:
    """One image uint8 [height, width, 3] and its points float64 [k, 2], from far to near."""
    from PIL import ImageEnhance
    from PIL.Image import Resampling, Transpose

    width, height = options.width * OVERSAMPLING, options.height * OVERSAMPLING
    photograph = draw.choice(photographs)
    left, top = (
        draw.randrange(extent - side + 1)
        for extent, side in zip(photograph.size, (width, height), strict=True)
    )
    canvas = photograph.crop((left, top, left + width, top + height)).convert("RGBA")
    if draw.random() < 0.5:
        canvas = canvas.transpose(Transpose.FLIP_LEFT_RIGHT)
    points = sorted(positions(draw, options), key=lambda point: (point[1], point[0]))
    for x, y in points:
        item = draw.choice(objects)
        tall = size_at(y, options) * draw.uniform(0.8, 1.25) * OVERSAMPLING
        factor = tall / max(item.size)
        item = item.resize(tuple(max(2, round(n * factor)) for n in item.size), Resampling.BOX)
        if draw.random() < 0.5:
            item = item.transpose(Transpose.FLIP_LEFT_RIGHT)
        left, top = (
            round(x * OVERSAMPLING - item.width / 2),
            round(y * OVERSAMPLING - item.height / 2),
        )
        canvas.paste(item, (left, top), item)
    image = canvas.convert("RGB").resize((options.width, options.height), Resampling.BOX)
    image = ImageEnhance.Brightness(image).enhance(draw.uniform(0.7, 1.3))
    image = ImageEnhance.Color(image).enhance(draw.uniform(0.6, 1.3))
    return np.asarray(image), np.array(points, np.float64).reshape(-1, 2)


def size_at(y: float, options: Options) -> float:
    """Pixels that an object in row y is tall: linear from the horizon to the bottom."""
    depth = (y / options.height - HORIZON) / (1 - HORIZON)
    share = options.smallest + (options.largest - options.smallest) * max(0.0, depth)
    return share * options.height


def positions(draw: random.Random, options: Options) -> list[tuple[float, float]]:
    """(x, y) of the objects of one image, all inside it and below the horizon; perhaps none."""
    count = poisson(draw, draw.gammavariate(options.shape, options.mean / options.shape))
    found: list[tuple[float, float]] = []
    while len(found) < count:
        middle = (draw.uniform(0, options.width), draw.uniform(HORIZON, 1) * options.height)
        members = min(count - len(found), 1 + poisson(draw, options.cluster - 1))
        spread = options.spread * options.height * size_at(middle[1], options)
        spread /= options.largest * options.height
        while members:
            x, y = draw.gauss(middle[0], spread), draw.gauss(middle[1], 0.6 * spread)
            if 0 <= x < options.width and HORIZON * options.height <= y < options.height:
                found.append((x, y))
                members -= 1
    return found


def poisson(draw: random.Random, rate: float) -> int:
    """A Poisson number, as arrivals of a process of that rate in a unit of time."""
    count, passed = 0, draw.expovariate(1.0)
    while passed < rate:
        count += 1
        passed += draw.expovariate(1.0)
    return count


def _by_split(
    files: dict[str, bytes], place: dict[str, list[str]], options: Options, largest: int | None
) -> dict[str, list[Image]]:
    pictures: dict[str, bytes] = {}
    for file, folders in place.items():
        prefixes = tuple(folder.rstrip("/") + "/" for folder in folders)
        try:
            found = members_under(files[file], prefixes, (".png", ".jpg"))
        except ArchiveError as error:
            raise ValueError(f"{file}: {error}") from error
        pictures |= {f"{file}/{name}": body for name, body in found.items()}
    wanted = {
        name: body
        for name, body in pictures.items()
        if largest is None or not any(part in name for part in options.leave_out)
    }
    decoded = {name: picture(body, name, largest) for name, body in distinct([wanted])[0].items()}
    usable = {name: image for name, image in decoded.items() if image is not None}
    order = list(usable)
    split = {
        name: [usable[order[i]] for i in rows]
        for name, rows in by_hash(order, options.shares).items()
    }
    if empty := [name for name, images in split.items() if not images]:
        raise ValueError(f"{sorted(place)}: {len(order)} pictures leave none for {empty[0]}")
    return split

"""Cut-out objects on photographs: small colour images for classification, made of real pictures.

An object is a picture with a transparent background, a class some folders of them.  Each image is one
object, scaled, turned, perhaps mirrored, on a random piece of a photograph, with random brightness and
colour.  No object and no photograph is in two splits, so a network is tested on things that it has not
seen, in places that it has not seen; copies of a picture are found by their bytes, and one that is in two
classes is in none.

Which objects go where is decided by hashes of their names; sizes and places come from Python's
Mersenne Twister, seeded for each image by its number, so images do not depend on one another.  Scaling is
Pillow's, in whole numbers; turning is not, and another version may differ in single pixels, which the
lock file notices.
"""

from __future__ import annotations

import hashlib
import io
import random
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from methods.data.archives import ArchiveError, members_under
from methods.data.builders.options import BuilderOptions, by_hash, check_shares
from methods.data.kinds import Images

if TYPE_CHECKING:
    from PIL.Image import Image

SCENE = (480, 360)
"""Photographs are scaled to this width and height before pieces are cut from them."""
OVERSAMPLING = 3
"""Images are composed at this multiple of their size and averaged down."""
LARGEST_SIDE = 2400
"""Pixels; larger objects are left out before they are decoded."""


class Options(BuilderOptions):
    """Where objects and photographs are, and how many images are made of them."""

    name: Literal["cutouts"]
    size: int = Field(32, ge=8, le=120)
    """Side of an image in pixels."""
    classes: dict[str, dict[str, list[str]]] = Field(min_length=2)
    """{class: {file (a Debian package): folders in it, with everything below them}}."""
    leave_out: list[str] = []
    """Objects whose path contains one of these are left out."""
    scenes: dict[str, list[str]] = Field(min_length=1)
    """{file: folders} of the photographs."""
    shares: dict[str, float]
    """Share of the objects, and of the photographs, by split."""
    images: dict[str, int]
    """Number of images by split; classes take turns."""

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
        if few := [split for split, count in self.images.items() if count < len(self.classes)]:
            raise ValueError(f"`images.{few[0]}`: fewer images than classes")
        return self

    @property
    def needs(self) -> tuple[frozenset[str], ...]:
        """All packages."""
        places = [*self.classes.values(), self.scenes]
        return (frozenset(file for place in places for file in place),)

    @property
    def splits(self) -> list[str]:
        """As declared."""
        return list(self.shares)


def build(files: dict[str, bytes], options: Options) -> dict[str, Images]:
    """uint8 `[n, size, size, 3]` for each split, classes in turn.

    Raises ValueError where a folder holds no usable picture or a split would get none.
    """
    side = options.size * OVERSAMPLING
    packages = _members(files, options)
    pictures = [_pictures(packages, place, options.leave_out) for place in options.classes.values()]
    objects = [
        _split(found, options.shares, f"class {label}", side)
        for label, found in zip(options.classes, distinct(pictures), strict=True)
    ]
    scenes = _split(_pictures(packages, options.scenes, []), options.shares, "scenes")
    names = list(options.classes)
    found = {}
    for split, count in options.images.items():
        x = np.empty((count, options.size, options.size, 3), np.uint8)
        y = np.arange(count, dtype=np.int64) % len(names)
        for number in range(count):
            draw = random.Random(f"{split} {number}")
            item = draw.choice(objects[y[number]][split])
            x[number] = composed(draw, item, draw.choice(scenes[split]), options.size)
        found[split] = Images(split, x, y, names)
    return found


def composed(draw: random.Random, item: Image, scene: Image, size: int) -> np.ndarray:
    """One image `[size, size, 3]`: `item` (RGBA) on a random piece of `scene` (RGB, `SCENE`)."""
    from PIL import Image, ImageEnhance
    from PIL.Image import Resampling, Transpose

    side = size * OVERSAMPLING
    left, top = (draw.randrange(extent - side + 1) for extent in scene.size)
    canvas = scene.crop((left, top, left + side, top + side)).convert("RGBA")
    scale = draw.uniform(0.65, 1.0) * side / max(item.size)
    width, height = (max(2, int(extent * scale)) for extent in item.size)
    item = item.resize((width, height), Resampling.BILINEAR)
    item = item.rotate(draw.gauss(0, 12), expand=True, resample=Resampling.BILINEAR)
    if draw.random() < 0.5:
        item = item.transpose(Transpose.FLIP_LEFT_RIGHT)
    place = tuple(
        int((side - extent) * draw.uniform(0.2, 0.8)) for extent in (item.width, item.height)
    )
    layer = Image.new("RGBA", canvas.size)
    layer.paste(item, place)
    canvas.alpha_composite(layer)
    image = canvas.convert("RGB").resize((size, size), Resampling.BOX)
    image = ImageEnhance.Brightness(image).enhance(draw.uniform(0.7, 1.3))
    image = ImageEnhance.Color(image).enhance(draw.uniform(0.6, 1.3))
    return np.asarray(image)


def _members(files: dict[str, bytes], options: Options) -> dict[str, dict[str, bytes]]:
    """{package: its pictures}; each package is unpacked once, whatever is wanted of it."""
    found = {}
    for file in sorted(set.union(*map(set, options.needs))):
        places = [place.get(file, []) for place in (*options.classes.values(), options.scenes)]
        folders = tuple(_prefix(folder) for place in places for folder in place)
        try:
            found[file] = members_under(files[file], folders, (".png", ".jpg"))
        except ArchiveError as error:
            raise ValueError(f"{file}: {error}") from error
    return found


def _prefix(folder: str) -> str:
    return folder.rstrip("/") + "/"


def _pictures(
    packages: dict[str, dict[str, bytes]], place: dict[str, list[str]], leave_out: list[str]
) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for file, folders in place.items():
        for folder in folders:
            inside = {n: b for n, b in packages[file].items() if n.startswith(_prefix(folder))}
            if not inside:
                raise ValueError(f"{file} holds no picture under {folder}")
            found |= inside
    return {name: body for name, body in found.items() if not any(p in name for p in leave_out)}


def _split(
    pictures: dict[str, bytes], shares: dict[str, float], what: str, largest: int | None = None
) -> dict[str, list[Image]]:
    """The usable pictures by split; objects are cropped to what is visible and scaled to `largest`."""
    decoded = {name: picture(body, name, largest) for name, body in pictures.items()}
    usable = {name: image for name, image in decoded.items() if image is not None}
    order = list(usable)
    split = {
        name: [usable[order[i]] for i in indices]
        for name, indices in by_hash(order, shares).items()
    }
    if empty := [name for name, images in split.items() if not images]:
        raise ValueError(f"{what}: {len(order)} pictures leave none for the split {empty[0]}")
    return split


def distinct(classes: list[dict[str, bytes]]) -> list[dict[str, bytes]]:
    """One of several copies of a picture in a class, and none of a picture that is in two classes."""
    once = [{hashlib.sha256(body).digest(): name for name, body in c.items()} for c in classes]
    owners = Counter(key for pictures in once for key in pictures)
    return [
        {name: contents[name] for key, name in pictures.items() if owners[key] == 1}
        for pictures, contents in zip(once, classes, strict=True)
    ]


def picture(body: bytes, name: str, largest: int | None) -> Image | None:
    """A photograph in `SCENE`'s size (`largest` is null) or an object of at most `largest` pixels.

    None for an object that shows nothing, has no transparent part, or is larger than `LARGEST_SIDE`.  ValueError for
    what is no picture.
    """
    from PIL import Image, UnidentifiedImageError
    from PIL.Image import Resampling

    try:
        with warnings.catch_warnings():
            # The sizes that it warns of are left out below, undecoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(body))
        with image:
            if max(image.size) > LARGEST_SIDE and largest is not None:
                return None
            if largest is None:
                return image.convert("RGB").resize(SCENE, Resampling.BOX)
            item = image.convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is no picture: {error}") from None
    alpha = item.getchannel("A")
    box = alpha.getbbox()
    if box is None or alpha.getextrema()[0] == 255:
        return None
    item = item.crop(box)
    scale = largest / max(item.size)
    return item.resize(
        tuple(max(2, round(extent * scale)) for extent in item.size), Resampling.LANCZOS
    )

"""Tiny-ImageNet in its published zip: 64x64 JPEG images in folders by class, validation labels in a list.

The published test images have no labels; the validation images are the `test` split, as is usual.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import PurePosixPath
from typing import ClassVar, Literal

import numpy as np

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Images

FILE = "tiny-imagenet-200.zip"
SIDE = 64
ROOT = "tiny-imagenet-200"
LARGEST_IMAGE = 1_000_000
"""Bytes of one unpacked image; the largest published one has a few thousand."""


class Options(BuilderOptions):
    """Nothing to choose."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({FILE}),)

    name: Literal["tiny-imagenet"]

    @property
    def splits(self) -> list[str]:
        """train and test (published as val)."""
        return ["train", "test"]


def build(files: dict[str, bytes], options: Options) -> dict[str, Images]:
    """uint8 [n, 64, 64, 3] (100 000 and 10 000 as published), by name of file; classes by WordNet number.

    Raises ValueError for a file that is no such zip, or an image of another size.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(files[FILE])) as archive:
            names = sorted(archive.namelist())
            classes = sorted(_text(archive, f"{ROOT}/wnids.txt").split())
            listed = _text(archive, f"{ROOT}/val/val_annotations.txt").splitlines()
            validation = dict(line.split("\t")[:2] for line in listed if line.strip())
            train = [name for name in names if _inside(name, "train")]
            test = [name for name in names if _inside(name, "val")]
            return {
                "train": _images(
                    archive, train, classes, lambda name: PurePosixPath(name).parts[2]
                ),
                "test": _images(
                    archive, test, classes, lambda name: validation[PurePosixPath(name).name]
                ),
            }
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"{FILE} has not the published layout: {error}") from error


def _inside(name: str, split: str) -> bool:
    return name.startswith(f"{ROOT}/{split}/") and name.endswith(".JPEG")


def _text(archive: zipfile.ZipFile, member: str) -> str:
    with archive.open(member) as stream:
        return stream.read(10 * LARGEST_IMAGE).decode("utf-8")


def _images(archive: zipfile.ZipFile, members: list[str], classes: list[str], label) -> Images:
    from PIL import Image, UnidentifiedImageError

    x = np.empty((len(members), SIDE, SIDE, 3), np.uint8)
    y = np.empty(len(members), np.int64)
    index = {name: number for number, name in enumerate(classes)}
    for row, member in enumerate(members):
        try:
            with (
                archive.open(member) as stream,
                Image.open(io.BytesIO(stream.read(LARGEST_IMAGE))) as image,
            ):
                if image.size != (SIDE, SIDE):
                    raise ValueError(f"{member} is {image.width} x {image.height}, not 64 x 64")
                x[row] = np.asarray(image.convert("RGB"))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{member} is no image: {error}") from error
        y[row] = index[label(member)]
    if not len(members):
        raise ValueError(f"{FILE} has not the published layout: no images")
    return Images(FILE, x, y, classes)

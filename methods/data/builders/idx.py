"""Images and labels in the IDX format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Images

FILES = {
    split: (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte")
    for split, stem in (("train", "train"), ("test", "t10k"))
}


class Options(BuilderOptions):
    """What the labels mean."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset(name for pair in FILES.values() for name in pair),
    )

    name: Literal["idx"]
    classes: list[str] = Field(min_length=2)

    @property
    def splits(self) -> list[str]:
        """train and test."""
        return list(FILES)


def build(files: dict[str, bytes], options: Options) -> dict[str, Images]:
    """The two splits as published."""
    return {
        split: Images(
            split, array(files[images]), array(files[labels]).astype(np.int64), options.classes
        )
        for split, (images, labels) in FILES.items()
    }


def array(body: bytes) -> np.ndarray:
    """A uint8 array of an IDX file; ValueError where header and size disagree."""
    if len(body) < 4 or body[:3] != b"\x00\x00\x08":
        raise ValueError("not an IDX file of unsigned bytes")
    axes = body[3]
    shape = tuple(int.from_bytes(body[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes))
    if len(body) != 4 + 4 * axes + math.prod(shape):
        raise ValueError(f"an IDX file of shape {shape} has {len(body)} bytes")
    return np.frombuffer(body, np.uint8, offset=4 + 4 * axes).reshape(shape)

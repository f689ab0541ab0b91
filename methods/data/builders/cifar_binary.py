"""CIFAR-10 in its published binary layout: records of one label byte and 32x32 pixels by channel."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from methods.data.builders.options import BuilderOptions
from methods.data.formats import Images

TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = ("test_batch.bin",)
RECORD = 1 + 3 * 32 * 32
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Options(BuilderOptions):
    """Nothing to choose."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset(TRAIN + TEST),)

    name: Literal["cifar-binary"]

    @property
    def splits(self) -> list[str]:
        """train and test."""
        return ["train", "test"]


def build(files: dict[str, bytes], options: Options) -> dict[str, Images]:
    """The two splits as published: 50 000 and 10 000 images [32, 32, 3]."""
    return {
        split: images(split, b"".join(files[name] for name in names))
        for split, names in (("train", TRAIN), ("test", TEST))
    }


def images(name: str, body: bytes) -> Images:
    """Records to images; ValueError where the bytes are no whole number of records."""
    if not body or len(body) % RECORD:
        raise ValueError(f"{name}: {len(body)} bytes are no whole number of {RECORD}-byte records")
    records = np.frombuffer(body, np.uint8).reshape(-1, RECORD)
    pixels = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(name, np.ascontiguousarray(pixels), records[:, 0].astype(np.int64), CLASSES)

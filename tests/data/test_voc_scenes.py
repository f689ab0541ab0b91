"""Tiles of images with boxes: every box once, no ground in two splits, no entities in the XML."""

import io

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from methods.data.builders import voc_scenes


def voc(boxes):
    objects = "".join(
        f"<object><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    return f"<annotation>{objects}</annotation>".encode()


def png(width=200, height=100):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, "PNG")
    return body.getvalue()


def options(**changes):
    strips = {
        "train": [{"image": "wood", "columns": [0.0, 0.6]}],
        "test": [{"image": "wood", "columns": [0.6, 1.0]}],
    }
    return voc_scenes.Options.model_validate(
        {"name": "voc-scenes", "strips": strips, "tile": 50, **changes}
    )


def test_every_box_is_in_one_tile_at_its_place():
    rng = np.random.default_rng(0)
    middles = rng.uniform([5, 5], [195, 95], (60, 2)).round()
    boxes = [(x - 3, y - 2, x + 3, y + 2) for x, y in middles]
    built = voc_scenes.build({"wood.png": png(), "wood.xml": voc(boxes)}, options())
    assert [len(built[s].images) for s in ("train", "test")] == [4, 4]
    found = []
    for split in built.values():
        for image, points in zip(split.images, split.points, strict=True):
            for x, y in points:
                # the pixels say where in the whole image they are
                assert image[int(y), int(x), 0] == image[0, 0, 0] + int(x)
                found.append((x + image[0, 0, 0], y + image[0, 0, 1]))
    assert sorted(found) == sorted(map(tuple, middles))
    assert (middles[:, 0] < 120).sum() == sum(map(len, built["train"].points))


def test_images_and_points_shrink_together():
    built = voc_scenes.build(
        {"wood.png": png(), "wood.xml": voc([(10, 20, 30, 40)])}, options(shrink=2, tile=200)
    )
    assert built["train"].images[0].shape == (50, 60, 3)
    assert built["train"].points[0].tolist() == [[10, 15]]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'<!DOCTYPE x [<!ENTITY a "aa">]><annotation>&a;</annotation>', "has a document type"),
        (b"<annotation><object>", "is no VOC annotation"),
        (voc([("a", 1, 2, 3)]), "is no VOC annotation"),
        (b"<annotation><bndbox><xmin>1</xmin></bndbox></annotation>", "is no VOC annotation"),
        ('<?xml version="1.0" encoding="UTF-16"?><a/>'.encode("utf-16"), "not in UTF-8"),
    ],
)
def test_annotations_that_are_refused(body, words):
    with pytest.raises(ValueError, match=rf"wood\.xml.*{words}"):
        voc_scenes.build({"wood.png": png(), "wood.xml": body}, options())


def test_a_broken_image_is_named():
    with pytest.raises(ValueError, match=r"wood\.png is no image"):
        voc_scenes.build({"wood.png": png()[:200], "wood.xml": voc([])}, options())


@pytest.mark.parametrize(
    ("strips", "words"),
    [
        (
            {
                "train": [{"image": "a", "columns": [0.0, 0.6]}],
                "test": [{"image": "a", "columns": [0.5, 1.0]}],
            },
            "overlap",
        ),
        ({"train": [{"image": "a", "columns": [0.6, 0.6]}]}, "must ascend"),
        ({"train": [{"image": "a"}], "test": [{"image": "a"}]}, "overlap"),
    ],
)
def test_strips_that_cannot_be(strips, words):
    with pytest.raises(ValidationError, match=words):
        options(strips=strips)


def test_it_needs_both_files_of_every_image():
    assert options().needs == (frozenset({"wood.png", "wood.xml"}),)

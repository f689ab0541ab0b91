"""The two sets that are counted in, where they are built."""

from pathlib import Path

import numpy as np
import pytest

from methods.data.loading import load

ROOT = Path(__file__).resolve().parents[2] / "data"


def built(reference):
    name = reference.partition(".")[0]
    if not (ROOT / name / "dataset.json").is_file():
        pytest.skip(f"{name} is not built here (python -m methods data {name})")
    return load(reference, ROOT)


def test_every_crown_is_in_one_tile_and_inside_it():
    splits = [built(f"tree-crowns.{name}") for name in ("train", "test")]
    assert sum(len(p) for split in splits for p in split.points) == 574 + 279 + 61 + 37
    for split in splits:
        for image, points in zip(split.images, split.points, strict=True):
            assert min(image.shape[:2]) > 100
            assert ((points >= 0) & (points < image.shape[1::-1])).all()


@pytest.mark.parametrize(("split", "images"), [("train", 200), ("validation", 30), ("test", 60)])
def test_crowds_are_uneven_and_inside(split, images):
    found = built(f"crowd.{split}")
    counts = np.array([len(p) for p in found.points])
    assert len(counts) == images
    assert 17 < counts.mean() < 31
    assert counts.std() > 12
    assert {image.shape for image in found.images} == {(120, 160, 3)}
    for points in found.points:
        assert ((points >= 0) & (points < [160, 120])).all()

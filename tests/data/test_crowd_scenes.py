"""Rendered crowds: the same bytes again, every point inside and visible in the picture, nothing in two splits."""

import random

import numpy as np
import pytest
from pydantic import ValidationError

from methods.data.builders import crowd_scenes
from tests.data.test_cutouts import package, picture

OBJECTS = {f"birds/{n}.png": picture((250, 10 * n, 0)) for n in range(6)}
SCENES = {
    f"scenes/{n}.jpg": picture((0, 0, 40 * n + 30), False, (90, 70), "JPEG") for n in range(4)
}


def files(**more):
    return {"a.deb": package(OBJECTS | more), "b.deb": package(SCENES)}


def options(**changes):
    return crowd_scenes.Options.model_validate(
        {
            "name": "crowd-scenes",
            "width": 80,
            "objects": {"a.deb": ["birds"]},
            "scenes": {"b.deb": ["scenes/"]},
            "shares": {"train": 0.5, "test": 0.5},
            "images": {"train": 4, "test": 3},
            "mean": 10.0,
            **changes,
        }
    )


def test_the_same_bytes_again_and_no_image_depends_on_another():
    one, other = crowd_scenes.build(files(), options()), crowd_scenes.build(files(), options())
    fewer = crowd_scenes.build(files(), options(images={"train": 2, "test": 1}))
    for split in ("train", "test"):
        assert one[split].images[0].shape == (60, 80, 3)
        for a, b in zip(one[split].images, other[split].images, strict=True):
            assert np.array_equal(a, b)
        for a, b in zip(one[split].images, fewer[split].images, strict=False):
            assert np.array_equal(a, b)


def test_there_is_an_object_at_every_point():
    built = crowd_scenes.build(files(), options(mean=6.0, largest=0.3, smallest=0.2))
    for image, points in zip(built["train"].images, built["train"].points, strict=True):
        for x, y in points:
            around = image[max(0, int(y) - 2) : int(y) + 3, max(0, int(x) - 2) : int(x) + 3]
            # objects are red, photographs blue
            assert (around[..., 0].astype(int) - around[..., 2]).max() > 30


def test_no_object_and_no_photograph_is_in_two_splits():
    made = options()
    bodies = files()
    for place, largest in ((made.objects, 50), (made.scenes, None)):
        split = crowd_scenes._by_split(bodies, place, made, largest)
        seen = [{image.tobytes() for image in split[name]} for name in ("train", "test")]
        assert seen[0]
        assert seen[1]
        assert not seen[0] & seen[1]


def test_positions_are_inside_below_the_horizon_and_as_many_as_asked():
    made = options(width=160, mean=20.0)
    counts = []
    for seed in range(300):
        points = crowd_scenes.positions(random.Random(seed), made)
        counts.append(len(points))
        for x, y in points:
            assert 0 <= x < made.width
            assert crowd_scenes.HORIZON * made.height <= y < made.height
    # negative binomial: mean 20, variance 20 + 20^2 / shape; five standard errors
    variance = 20 + 400 / made.shape
    assert np.mean(counts) == pytest.approx(20, abs=5 * (variance / 300) ** 0.5)
    assert np.var(counts) > 3 * np.mean(counts)


def test_positions_cluster_more_than_even_ones_do():
    made = options(width=160, mean=40.0)
    rng = np.random.default_rng(0)
    shares = []
    for seed in range(30):
        points = np.array(crowd_scenes.positions(random.Random(seed), made)).reshape(-1, 2)
        if len(points) > 10:
            even = rng.uniform([0, made.height * 0.15], [made.width, made.height], points.shape)
            shares.append([nearest(points), nearest(even)])
    clustered, spread = np.mean(shares, 0)
    assert clustered < 0.6 * spread


def nearest(points):
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    np.fill_diagonal(distances, np.inf)
    return distances.min(1).mean()


def test_size_grows_from_the_horizon_down():
    made = options()
    assert crowd_scenes.size_at(0, made) == pytest.approx(0.05 * 60)
    assert crowd_scenes.size_at(60, made) == pytest.approx(0.2 * 60)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": {"train": 2}}, "`shares` has the splits"),
        ({"smallest": 0.4, "largest": 0.2}, "smallest 0.4 is above largest 0.2"),
        ({"shares": {"train": 0.5, "test": 0.2}}, "add up to 1"),
    ],
)
def test_settings_that_cannot_work(changes, words):
    with pytest.raises(ValidationError, match=words):
        options(**changes)


def test_a_folder_without_pictures_and_a_damaged_package():
    with pytest.raises(ValueError, match="leave none for"):
        crowd_scenes.build(files(), options(objects={"a.deb": ["fish"]}))
    with pytest.raises(ValueError, match=r"a\.deb"):
        crowd_scenes.build({**files(), "a.deb": b"nothing"}, options())

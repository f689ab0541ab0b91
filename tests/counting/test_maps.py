"""Density maps as a step: kept whole, keyed by what they were made with, and clear about points."""

import logging

import numpy as np
import pytest

from methods.counting import maps
from methods.counting.params import DensityMaps, DensityMapsBesideBase
from methods.data.kinds import Images, Scenes
from methods.models.networks.network import Network, build
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.counting.scenes import MAPS, scenes


def test_every_map_sums_to_its_points_and_survives_the_disk(tmp_path):
    data = {"train": [scenes()], "validation": [scenes(3, (30, 40), seed=1)]}
    made = maps.apply(None, data, MAPS, Context())
    made.save(tmp_path)
    again = maps.load(tmp_path)
    assert again.network is None
    for role in data:
        for one, other, points in zip(
            made.maps[role], again.of(role, data[role][0]), data[role][0].points, strict=True
        ):
            assert one.dtype == np.float32
            assert np.array_equal(one, other)
            assert one.sum() == pytest.approx(len(points), abs=1e-5)
    points = [len(p) for (found,) in data.values() for p in found.points]
    assert made.metrics["points"].value == sum(points)


def test_a_base_is_carried_along(tmp_path):
    base = Network(
        build("efficientnet_lite", {}, 0), "efficientnet_lite", {}, [0.5] * 3, [0.5] * 3, ["a"]
    )
    made = maps.beside(
        base, {"train": [scenes(2)]}, DensityMapsBesideBase(sigma=2.0, size=9), Context()
    )
    made.save(tmp_path)
    found = maps.load(tmp_path).network.module.state_dict()
    assert all((found[k] == v).all() for k, v in base.module.state_dict().items())


def test_only_an_efficientnet_lite_can_be_the_base():
    with pytest.raises(RetrofitError, match="must be an efficientnet_lite, not llama"):
        DensityMapsBesideBase().check_base({"model_type": "llama"})


def stray():
    found = scenes(2)
    points = [np.array([[-2.0, 3.0], [5.0, 5.0]]), np.array([[9.0, 90.0]])]
    return Scenes("stray", found.images, points, found.titles)


def test_points_outside_are_counted_and_clamped_by_default(caplog):
    with caplog.at_level(logging.WARNING):
        made = maps.apply(None, {"train": [stray()]}, MAPS, Context())
    assert made.metrics["points_outside"].value == 2
    assert "2 points lie outside their image and are counted at its edge" in caplog.text
    assert [round(float(m.sum()), 4) for m in made.maps["train"]] == [2, 1]


def test_points_outside_are_left_out_or_refused_on_demand():
    dropping = DensityMaps(sigma=2.0, size=9, outside="drop")
    made = maps.apply(None, {"train": [stray()]}, dropping, Context())
    assert [round(float(m.sum()), 4) for m in made.maps["train"]] == [1, 0]
    refusing = DensityMaps(sigma=2.0, size=9, outside="refuse")
    with pytest.raises(RetrofitError, match=r"stray, squares 0: 1 of 2 points lie outside"):
        maps.apply(None, {"train": [stray()]}, refusing, Context())


@pytest.mark.parametrize(
    ("settings", "side"), [({"size": 31}, 31), ({"size": None, "sigma": 4.0}, 33)]
)
def test_a_kernel_wider_than_the_image_is_refused(settings, side):
    words = f"squares 0: a kernel of {side} pixels is wider than the image of 56 x 30"
    with pytest.raises(RetrofitError, match=words):
        maps.apply(None, {"train": [scenes(2, (30, 56))]}, DensityMaps(**settings), Context())


def test_adaptive_kernels_fit_into_the_image():
    lonely = Scenes("one", [np.zeros((20, 30, 3), np.uint8)], [np.array([[4.0, 4.0]])], ["x"])
    made = maps.apply(None, {"train": [lonely]}, DensityMaps(kernel="adaptive"), Context())
    assert made.maps["train"][0].sum() == pytest.approx(1, abs=1e-6)
    together = Scenes("two", lonely.images, [np.array([[4.0, 4.0]] * 2)], ["x"])
    made = maps.apply(None, {"train": [together]}, DensityMaps(kernel="adaptive"), Context())
    assert made.maps["train"][0].sum() == pytest.approx(2, abs=1e-6)


def test_images_without_points_are_refused():
    images = Images("photos.train", np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64), ["a"])
    with pytest.raises(
        RetrofitError, match=r"train needs images with points, and photos\.train has none"
    ):
        maps.apply(None, {"train": [images]}, MAPS, Context())


def test_a_limit_takes_the_same_scenes_for_every_seed():
    limited = scenes()
    object.__setattr__(limited, "options", {"limit": 3})
    first = maps.as_scenes(limited, "x").titles
    assert len(first) == 3
    assert maps.as_scenes(limited, "x").titles == first


def test_a_damaged_directory_is_refused(tmp_path):
    with pytest.raises(RetrofitError, match="no usable density maps"):
        maps.load(tmp_path)

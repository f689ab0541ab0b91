"""What the measure counts, against plain arithmetic."""

import numpy as np
import pytest

from methods.counting.measure import measure
from methods.counting.network import Counter
from methods.counting.params import Counting, CountingInRegion
from methods.counting.uniform import Uniform
from methods.data.kinds import Scenes
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.counting.scenes import scenes


def even(density=0.001):
    module = Uniform()
    module.density.fill_(density)
    return Counter(module, "uniform", {}, [0.0] * 3, [1.0] * 3, 1.0)


def test_errors_are_against_the_points_with_a_value_for_each_image():
    test = scenes(5)
    found = measure(even(), {"test": [test]}, Counting(), Context())
    count = 48 * 56 * np.float64(np.float32(0.001))
    errors = [abs(count - len(p)) for p in test.points]
    assert found["mae"].values == pytest.approx(errors)
    assert found["mae"].labels == test.titles
    assert found["mae"].value == pytest.approx(np.mean(errors))
    assert found["rmse"].value == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert found["bias"].value == pytest.approx(count - np.mean([len(p) for p in test.points]))
    relative = [e / len(p) for e, p in zip(errors, test.points, strict=True) if len(p)]
    assert found["nae"].value == pytest.approx(np.mean(relative))
    assert found["nae"].n == len(relative) == 4
    games = [found["mae"].value, *(found[f"game/{n}"].value for n in (1, 2, 3))]
    assert games == sorted(games)


def test_further_sets_carry_their_name_and_empty_sets_have_no_relative_error():
    one = scenes(3)
    empty = Scenes("empty.test", one.images, [np.empty((0, 2))] * 3, one.titles)
    found = measure(even(), {"test": [one, empty]}, Counting(levels=1), Context())
    assert {"mae", "mae/empty.test", "game/1/empty.test"} <= set(found)
    assert "nae/empty.test" not in found


def test_what_is_black_does_not_count_in_a_region():
    test = scenes(1)
    image = np.maximum(test.images[0], 1)
    image[:, :28] = 0
    half = Scenes("road", [image], test.points, test.titles)
    whole = measure(even(), {"test": [half]}, Counting(), Context())
    road = measure(even(), {"test": [half]}, CountingInRegion(), Context())
    assert road["mae"].value == pytest.approx(whole["mae"].value / 2)


def test_points_outside_follow_the_policy():
    test = scenes(1)
    stray = Scenes("stray", test.images, [np.array([[-1.0, 2.0], [3.0, 3.0]])], ["s"])
    clamped = measure(even(0.0), {"test": [stray]}, Counting(), Context())
    dropped = measure(even(0.0), {"test": [stray]}, Counting(outside="drop"), Context())
    assert (clamped["mae"].value, dropped["mae"].value) == (2, 1)
    with pytest.raises(RetrofitError, match="stray, s: 1 of 2 points lie outside"):
        measure(even(), {"test": [stray]}, Counting(outside="refuse"), Context())


def test_an_image_that_cannot_be_counted_is_named():
    with pytest.raises(
        RetrofitError, match="squares, squares 0: an image of 10 x 30 pixels is smaller"
    ):
        measure(even(), {"test": [scenes(2, (30, 10))]}, Counting(), Context())


def test_other_models_are_refused():
    with pytest.raises(RetrofitError, match="a counting network, not object"):
        measure(object(), {"test": [scenes(1)]}, Counting(), Context())

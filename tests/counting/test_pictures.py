"""Pictures of truth and prediction."""

import io

import numpy as np
from PIL import Image

from methods.counting import pictures


def test_three_panels_with_points_and_densities():
    image = np.full((20, 30, 3), 100, np.uint8)
    true, predicted = np.zeros((20, 30)), np.zeros((20, 30))
    true[5, 6], predicted[15, 20] = 1.0, 1.0
    shown = pictures.side_by_side(image, np.array([[6.5, 5.5]]), true, predicted)
    assert shown.shape == (20, 3 * 30 + 2 * pictures.GAP, 3)
    step = 30 + pictures.GAP
    assert shown[5, 6].tolist() == pictures.DOT.tolist()
    assert shown[5, step + 6].tolist() == [255, 255, 0]
    assert shown[5, 2 * step + 6].tolist() == [50, 50, 50]
    assert shown[15, 2 * step + 20].tolist() == [255, 255, 0]


def test_nothing_to_count_gives_a_dim_picture():
    image = np.full((4, 4, 3), 100, np.uint8)
    shown = pictures.side_by_side(image, np.empty((0, 2)), np.zeros((4, 4)), np.zeros((4, 4)))
    assert shown[0, 4 + pictures.GAP].tolist() == [50, 50, 50]


def test_a_file_carries_its_title_and_is_the_same_twice():
    picture = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    body = pictures.png(picture, "3 marked, 2.9 predicted")
    assert body == pictures.png(picture, "3 marked, 2.9 predicted")
    with Image.open(io.BytesIO(body)) as opened:
        assert opened.info["Title"] == "3 marked, 2.9 predicted"
        assert opened.size == (9, 9)


def test_a_file_is_narrow_enough_for_a_report():
    body = pictures.png(np.zeros((100, 2 * pictures.WIDTH, 3), np.uint8), "wide")
    with Image.open(io.BytesIO(body)) as opened:
        assert opened.size == (pictures.WIDTH, 50)


def test_images_are_spread_over_the_counts():
    assert pictures.spread([5, 0, 9, 3, 7, 1], 3) == [5, 0, 2]
    assert pictures.spread([5, 0], 3) == [1, 0]

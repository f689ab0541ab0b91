"""Density maps: the published ones to the bit, and what is wrong with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from methods.counting import density
from tests.counting.golden import golden

G = golden()
BORDERS = ("renormalise", "recentre", "reflect")


def csr_points():
    rows, columns = np.nonzero(G["csr.dotmap"])
    return np.stack([columns, rows], 1).astype(float)


def test_the_kernel_and_the_published_maps():
    np.testing.assert_allclose(density.gaussian(15, 4.0), G["sas.kernel15_sigma4"], atol=1e-15)
    for points, shape, expected in (
        ("sas.points_xy", (48, 72), "sas.density"),
        ("sas.corner_point", (20, 20), "sas.corner_density"),
    ):
        found = density.density_map(G[points], shape, border="recentre", one_based=True)
        np.testing.assert_allclose(found, G[expected], atol=1e-15)


def test_csrnets_maps_lose_objects():
    points = csr_points()
    lost = density.density_map(points, (48, 72), 4.0, None, "constant")
    np.testing.assert_allclose(lost, G["csr.fixed4_constant"], atol=1e-15)
    assert lost.sum() < 31.2 < len(points) == 37 < len(G["sas.points_xy"])
    sigmas = density.adaptive_sigmas(points, (48, 72))
    adaptive = density.density_map(points, (48, 72), sigmas, None, "constant")
    np.testing.assert_allclose(adaptive, G["csr.adaptive_density"], atol=1e-6)
    assert adaptive.sum() < 33.3
    kept = density.density_map(points, (48, 72), sigmas, None, "renormalise")
    assert kept.sum() == pytest.approx(37, abs=1e-9)
    # equal points count twice
    twice = np.concatenate([points, points[:1]])
    assert density.density_map(twice, (48, 72)).sum() == pytest.approx(38, abs=1e-9)


def test_a_kernel_wider_than_the_image_is_folded_as_scipy_does():
    found = density.density_map(csr_points(), (48, 72), 15.0, None, "reflect")
    np.testing.assert_allclose(found, G["csr.fixed15_density"], atol=1e-15)
    single = np.zeros((9, 13))
    single[2, 11] = 1
    expected = gaussian_filter(single, 4.0, mode="reflect")
    found = density.density_map(np.array([[11.5, 2.5]]), (9, 13), 4.0, None, "reflect")
    np.testing.assert_allclose(found, expected, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-30, 90), st.floats(-30, 90)), max_size=12),
    st.integers(15, 60),
    st.integers(15, 60),
    st.sampled_from(BORDERS),
    st.sampled_from([(4.0, 15), (2.0, None), (0.7, 3)]),
)
def test_every_map_sums_to_the_number_of_points(points, height, width, border, kernel):
    array = np.array(points, float).reshape(-1, 2)
    found = density.density_map(array, (height, width), *kernel, border)
    assert found.sum() == pytest.approx(len(points), abs=1e-9)
    assert found.min() >= 0


def test_the_published_border_moves_the_peak():
    corner = np.array([[1.0, 1.0]])
    published = density.density_map(corner, (20, 20), border="recentre", one_based=True)
    ours = density.density_map(corner, (20, 20))
    assert np.unravel_index(published.argmax(), published.shape) == (3, 3)
    assert np.unravel_index(ours.argmax(), ours.shape) == (1, 1)
    # and away from any border, reading 0-based points as 1-based shifts the map by a pixel
    inner = np.array([[10.0, 12.0]])
    shifted = density.density_map(inner, (30, 30), border="recentre", one_based=True)
    assert np.unravel_index(shifted.argmax(), shifted.shape) == (11, 9)
    assert density.density_map(inner, (30, 30)).argmax() == 12 * 30 + 10


def test_maps_mirror_with_their_points():
    points = np.random.default_rng(0).uniform(0, 1, (20, 2)) * [50, 40]
    found = density.density_map(points, (40, 50))
    mirrored = points * [-1, 1] + [50, 0]
    np.testing.assert_allclose(density.density_map(mirrored, (40, 50)), found[:, ::-1], atol=1e-15)


def test_many_points_are_done_in_parts(monkeypatch):
    points = np.random.default_rng(1).uniform(0, 40, (50, 2))
    whole = density.density_map(points, (40, 40))
    monkeypatch.setattr(density, "AT_ONCE", 7)
    np.testing.assert_allclose(density.density_map(points, (40, 40)), whole, atol=1e-14)


def test_adaptive_kernels_of_few_points_are_finite():
    shape = (40, 80)
    assert density.adaptive_sigmas(np.empty((0, 2)), shape).tolist() == []
    assert density.adaptive_sigmas(np.array([[3.0, 4.0]]), shape).tolist() == [15.0]
    two = density.adaptive_sigmas(np.array([[0.0, 0.0], [6.0, 8.0]]), shape)
    np.testing.assert_allclose(two, 0.3 * 10)
    three = density.adaptive_sigmas(np.array([[0.0, 0], [6, 8], [12, 16]]), shape)
    np.testing.assert_allclose(three, [0.3 * 15, 0.3 * 10, 0.3 * 15])


def test_points_outside_are_clamped_dropped_or_refused():
    points = np.array([[-3.0, 5], [5, 5], [20, 5], [5, 30]])
    assert density.outside(points, (30, 20)).tolist() == [True, False, True, True]
    assert len(density.kept(points, (30, 20), "clamp")) == 4
    assert density.kept(points, (30, 20), "drop").tolist() == [[5, 5]]
    with pytest.raises(
        ValueError, match=r"3 of 4 points lie outside the image of 20 x 30.*\(-3, 5\)"
    ):
        density.kept(points, (30, 20), "refuse")
    assert density.pixels(points, (30, 20)).tolist() == [[5, 0], [5, 5], [5, 19], [29, 5]]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"size": 14}, "14 is even"), ({"sigma": 0.0}, "must be positive, the smallest is 0")],
)
def test_impossible_kernels(options, words):
    with pytest.raises(ValueError, match=words):
        density.density_map(np.ones((1, 2)), (20, 20), **options)

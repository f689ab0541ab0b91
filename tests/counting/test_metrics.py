"""Errors of counts, against an independent count and by their order."""

import math

import numpy as np
import pytest

from methods.counting import metrics
from tests.counting.golden import golden

G = golden()


def test_game_and_the_errors_of_the_reference():
    found = [
        metrics.game(metrics.cell_sums(G["metric.pred"], n), metrics.cell_sums(G["metric.gt"], n))
        for n in range(4)
    ]
    np.testing.assert_allclose(found, G["metric.game0123"], rtol=1e-12)
    predicted, true = G["metric.counts_pred"], G["metric.counts_gt"]
    ours = [f(predicted, true) for f in (metrics.mae, metrics.rmse, metrics.nae)]
    np.testing.assert_allclose(ours, G["metric.mae_rmse_nae"], rtol=1e-12)
    assert ours[1] >= ours[0]


@pytest.mark.parametrize("shape", [(48, 72), (37, 53), (5, 3)])
def test_cells_partition_the_image_and_game_never_falls(shape):
    rng = np.random.default_rng(2)
    density = rng.uniform(0, 0.1, shape)
    points = rng.uniform(-0.2, 1.2, (30, 2)) * shape[::-1]
    found = []
    for level in range(4):
        sums, counts = metrics.cell_sums(density, level), metrics.cell_counts(points, shape, level)
        assert sums.shape == counts.shape == (2**level, 2**level)
        assert sums.sum() == pytest.approx(density.sum())
        assert counts.sum() == 30
        found.append(metrics.game(sums, counts))
    assert found == sorted(found)
    assert found[0] == pytest.approx(abs(density.sum() - 30))


def test_a_cell_counts_the_points_whose_pixels_it_has():
    points = np.array([[0.0, 0.0], [3.99, 0], [4.0, 0], [7.9, 7.9], [4.0, 4.0]])
    assert metrics.cell_counts(points, (8, 8), 1).tolist() == [[2, 1], [0, 2]]


def test_nae_is_over_images_with_something_in_them():
    assert metrics.nae(np.array([5.0, 3.0]), np.array([0.0, 2.0])) == 0.5
    assert math.isnan(metrics.nae(np.ones(2), np.zeros(2)))

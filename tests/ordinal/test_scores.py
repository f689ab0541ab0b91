"""Scores of predicted probabilities: by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as peer_log_loss

from methods.ordinal.metrics import brier, brier_classes, log_loss, osce, osce_released, rare_mse


def sample(n=1000, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 9, n)
    return p, rng.random(n) < p


def test_brier_and_log_loss_are_scikit_learns():
    p, event = sample()
    assert brier(p, event) == pytest.approx(brier_score_loss(event, p))
    assert log_loss(p, event) == pytest.approx(peer_log_loss(event, p))


def test_log_loss_of_a_certain_miss_is_finite():
    assert log_loss(np.array([0.0]), np.array([True])) == pytest.approx(-np.log(1e-15))


def test_brier_over_classes_by_hand():
    probabilities = np.array([[[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]]])
    expected = ((0.2**2 + 0.5**2 + 0.3**2) + 0.0) / 2 + (1 - 2 * 0.5) / 2
    assert brier_classes(probabilities, np.array([1, 0])) == pytest.approx(expected)


def test_calibration_error_by_hand():
    # 20 rows, 10 bins of two rows each; the first bin holds one event, all others none.
    p = np.linspace(0.05, 0.24, 20)
    event = np.zeros(20, dtype=bool)
    event[1] = True
    rates = np.repeat([0.5] + [0.0] * 9, 2)
    assert osce(p, event) == pytest.approx(np.mean((p - rates) ** 2))
    shuffled = np.random.default_rng(0).permutation(20)
    assert osce(p[shuffled], event[shuffled]) == pytest.approx(osce(p, event))
    assert osce_released(p, event) == pytest.approx(osce(p, event))
    expected = np.mean((p[shuffled] - rates) ** 2)
    assert osce_released(p[shuffled], event[shuffled]) == pytest.approx(expected)


def test_calibration_error_needs_rows_for_its_bins():
    with pytest.raises(ValueError, match="10 bins"):
        osce(np.zeros(5), np.zeros(5, dtype=bool))


def test_rare_mse():
    assert rare_mse(np.array([0.1, 0.2]), np.array([0.1, 0.0])) == pytest.approx(0.02)

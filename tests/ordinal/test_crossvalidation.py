"""Folds and the choice of the penalty."""

import numpy as np
import pytest

from methods.ordinal.crossvalidation import choose, largest_at_minimum, stratified_folds
from methods.ordinal.solver import Problem


def test_folds_are_stratified_and_even():
    y = np.repeat([0, 1, 2], [501, 52, 7])
    folds = stratified_folds(y, 5, np.random.default_rng(0))
    assert np.ptp(np.bincount(folds)) <= 1
    for c in range(3):
        counts = np.bincount(folds[y == c], minlength=5)
        assert np.ptp(counts) <= 1


def test_a_class_with_one_row_cannot_be_folded():
    with pytest.raises(ValueError, match="class 1 has 1 row"):
        stratified_folds(np.array([0, 0, 0, 1]), 2, np.random.default_rng(0))


def test_the_largest_penalty_among_equals():
    assert largest_at_minimum(np.array([3.0, 1.0, 2.0, 1.0])) == 1


def test_noise_chooses_the_null_and_signal_does_not():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 4))
    noise = rng.permutation(np.repeat([0, 1, 2], 200))
    signal = np.digitize(2 * x[:, 0] + rng.logistic(size=600), [-1, 1])
    for y, low, high in ((noise, 0.3, 1.0), (signal, 0.0, 0.3)):
        lambdas = Problem(x, y, 3).lambdas(15, 0.01)
        found = choose(x, y, 3, lambdas, stratified_folds(y, 5, rng))
        assert low <= found.lam / lambdas[0] <= high
        assert found.fold_scores.shape == (5, 15)
        assert found.scores[found.index] == found.scores.min()

import numpy as np
import pytest
from scipy import stats

from methods.measure.exponents import exponent
from methods.study.errors import RetrofitError

SIZES = np.geomspace(100, 1e4, 6)


def noisy(p: float, replicates: int, spread: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(len(SIZES), replicates))
    return 3.0 * SIZES[:, None] ** p * np.exp(spread * noise)


def test_exact_power_law_has_its_exponent_and_no_spread():
    found = exponent(SIZES, noisy(-0.5, 4, 0.0, 0))
    assert found.value == pytest.approx(-0.5, abs=1e-12)
    assert found.factor == pytest.approx(3.0)
    assert found.stderr == pytest.approx(0.0, abs=1e-12)
    assert found.range == (100.0, pytest.approx(1e4))


def test_slope_is_the_least_squares_slope_of_scipy():
    y = noisy(0.8, 7, 0.5, 1)
    expected = stats.linregress(np.log(SIZES), np.log(np.median(y, axis=1))).slope
    assert exponent(SIZES, y, "median").value == pytest.approx(expected)


@pytest.mark.parametrize("aggregate", ["mean", "median"])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(aggregate):
    hits = 0
    for seed in range(200):
        found = exponent(SIZES, noisy(-0.5, 40, 0.4, seed), aggregate, resamples=300, seed=seed)
        hits += found.low <= -0.5 <= found.high
    # binomial(200, .95) lies above 177 with probability .999
    assert hits >= 177


def test_an_outlier_moves_the_mean_and_not_the_median():
    y = noisy(-0.5, 21, 0.05, 3)
    y[0, 0] *= 1e4
    assert exponent(SIZES, y, "mean").value < -1
    assert exponent(SIZES, y, "median").value == pytest.approx(-0.5, abs=0.03)


@pytest.mark.parametrize(
    ("n", "y", "words"),
    [
        (SIZES[:2], np.ones((2, 5)), "three sizes"),
        (SIZES, np.ones((6, 1)), "two replicates"),
        (SIZES, np.zeros((6, 3)), "positive"),
        (SIZES, np.full((6, 3), np.nan), "positive and finite"),
        (SIZES, np.ones((5, 3)), "do not fit"),
    ],
)
def test_what_cannot_be_fitted_is_refused(n, y, words):
    with pytest.raises(RetrofitError, match=words):
        exponent(n, y)

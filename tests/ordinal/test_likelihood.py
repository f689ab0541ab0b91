"""The likelihood of one row: against its definition, finite differences and the far tails."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from methods.ordinal.likelihood import (
    class_probabilities,
    crossing_rows,
    linear_predictors,
    negative_log_probability,
    rare_probability,
    raw_probabilities,
    row_derivatives,
)

level = st.floats(-15, 15)
gap = st.floats(1e-3, 10)


@given(level, gap)
def test_is_minus_log_of_the_difference(v, t):
    expected = -np.log(expit(v + t) - expit(v))
    assert negative_log_probability(v + t, v) == pytest.approx(expected, rel=1e-6)


def test_three_numbers():
    assert negative_log_probability(np.inf, 0.0) == pytest.approx(np.log(2))
    assert negative_log_probability(0.0, -np.inf) == pytest.approx(np.log(2))
    assert negative_log_probability(np.log(3), -np.log(3)) == pytest.approx(np.log(2))


def test_keeps_its_digits_where_probabilities_underflow():
    # sigma(-800) - sigma(-801) = e^-800 (1 - e^-1) to working precision; the difference itself is 0.
    found = negative_log_probability(-800.0, -801.0)
    assert found == pytest.approx(800.0 - np.log(-np.expm1(-1.0)), rel=1e-14)


@pytest.mark.parametrize(("u", "v"), [(0.0, 0.0), (0.0, 1.0)])
def test_infinite_outside_the_domain(u, v):
    assert negative_log_probability(u, v) == np.inf


@given(st.floats(-8, 8), st.floats(0.05, 8))
def test_derivatives_are_those_of_the_value(v, t):
    u, h = v + t, 1e-5

    def f(a, b):
        return float(negative_log_probability(a, b))

    du, dv, uu, vv, uv = (float(d) for d in row_derivatives(np.float64(u), np.float64(v)))
    assert du == pytest.approx((f(u + h, v) - f(u - h, v)) / (2 * h), rel=1e-4, abs=1e-6)
    assert dv == pytest.approx((f(u, v + h) - f(u, v - h)) / (2 * h), rel=1e-4, abs=1e-6)
    up, down = row_derivatives(u + h, v), row_derivatives(u - h, v)
    assert uu == pytest.approx(float(up[0] - down[0]) / (2 * h), rel=1e-4, abs=1e-6)
    assert uv == pytest.approx(float(up[1] - down[1]) / (2 * h), rel=1e-4, abs=1e-6)
    assert uu * vv >= uv**2  # convex


def test_probabilities_sum_to_one_and_match_their_definition():
    rng = np.random.default_rng(0)
    eta = np.sort(rng.normal(0, 4, (200, 4)), axis=1)
    found = class_probabilities(eta)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-14)
    np.testing.assert_allclose(np.cumsum(found, axis=1)[:, :-1], expit(eta), atol=1e-13)
    np.testing.assert_allclose(found[:, -1], rare_probability(eta))


def test_a_rare_last_class_keeps_its_digits():
    eta = np.array([[38.0, 40.0]])
    found = raw_probabilities(eta)[0]
    np.testing.assert_allclose(found[2], np.exp(-40.0), rtol=1e-12)
    np.testing.assert_allclose(found[1], np.exp(-38.0) - np.exp(-40.0), rtol=1e-12)


def test_crossing_curves_still_give_probabilities():
    eta = np.array([[1.0, -1.0], [-1.0, 1.0]])
    assert crossing_rows(eta) == 1
    found = class_probabilities(eta)
    assert (raw_probabilities(eta) < 0).any()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_linear_predictors_of_a_whole_path():
    rng = np.random.default_rng(0)
    x, a, b = rng.normal(size=(5, 3)), rng.normal(size=(7, 2)), rng.normal(size=(7, 2, 3))
    found = linear_predictors(x, a, b)
    assert found.shape == (7, 5, 2)
    np.testing.assert_allclose(found[4], a[4] + x @ b[4].T)

"""The quadratic with l1 terms: optimality conditions on random, collinear and large cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from methods.ordinal.subproblem import solve


def violation(quadratic, linear, penalty, w):
    gradient = quadratic @ w + linear
    zero = w == 0
    at_zero = np.maximum(np.abs(gradient[zero]) - penalty[zero], 0)
    moved = np.abs(gradient[~zero] + penalty[~zero] * np.sign(w[~zero]))
    return max(at_zero.max(initial=0), moved.max(initial=0))


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(0, 3))
def test_optimality(seed, size, strength):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(size, size + 3)) * np.exp(rng.normal(size=(size, 1)))
    quadratic = factor @ factor.T / size + 1e-3 * np.eye(size)
    linear = rng.normal(size=size) * 2
    penalty = strength * (rng.random(size) < 0.8) * rng.random(size)
    for start in (np.zeros(size), rng.normal(size=size)):
        w = solve(quadratic, linear, penalty, start)
        assert violation(quadratic, linear, penalty, w) < 1e-8 * (1 + np.abs(linear).max())


def test_nearly_collinear_columns_do_not_cycle():
    rng = np.random.default_rng(1)
    base = rng.normal(size=(60, 1))
    columns = base + 1e-4 * rng.normal(size=(60, 40))
    quadratic = columns.T @ columns / 60 + 1e-9 * np.eye(40)
    linear = rng.normal(size=40)
    penalty = np.full(40, 0.5)
    w = solve(quadratic, linear, penalty, rng.normal(size=40))
    assert violation(quadratic, linear, penalty, w) < 1e-5


def test_no_penalty_is_a_linear_system():
    quadratic, linear = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([1.0, -2.0])
    w = solve(quadratic, linear, np.zeros(2), np.zeros(2))
    np.testing.assert_allclose(quadratic @ w, -linear)


def test_one_coordinate_is_soft_thresholding():
    for slope, expected in ((-3.0, 1.0), (-1.0, 0.0), (0.5, 0.0), (5.0, -2.0)):
        w = solve(np.array([[2.0]]), np.array([slope]), np.array([1.0]), np.zeros(1))
        assert w[0] == pytest.approx(expected)


def test_an_indefinite_quadratic_is_refused():
    with pytest.raises(FloatingPointError, match="positive definite"):
        solve(np.diag([1.0, -1.0]), np.ones(2), np.zeros(2), np.zeros(2))

"""The fused likelihood of a data set against row by row, and its derivatives against differences."""

import numpy as np
import pytest

from methods.ordinal.likelihood import linear_predictors, negative_log_probability
from methods.ordinal.objective import Objective


def problem(classes, rows=60, columns=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns))
    y = rng.permutation(np.arange(rows) % classes)
    theta = np.zeros((classes - 1) * (1 + columns))
    theta[: classes - 1] = 1.5 * np.arange(classes - 1) - 1.0
    theta[classes - 1 :] = 0.1 * rng.normal(size=(classes - 1) * columns)
    return Objective(x, y, classes), x, y, theta


def by_rows(x, y, theta, classes):
    q, p = classes - 1, x.shape[1]
    coef = np.cumsum(theta[q:].reshape(q, p), axis=0)
    eta = np.hstack(
        [
            np.full((len(x), 1), -np.inf),
            linear_predictors(x, theta[:q], coef),
            np.full((len(x), 1), np.inf),
        ]
    )
    rows = np.arange(len(x))
    return negative_log_probability(eta[rows, y + 1], eta[rows, y]).mean()


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_value_is_the_mean_over_rows(classes):
    objective, x, y, theta = problem(classes)
    expected = by_rows(x, y, theta, classes)
    assert objective.value(theta) == pytest.approx(expected, rel=1e-14)
    assert objective.evaluate(theta).value == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_gradient_and_hessian_are_derivatives(classes):
    objective, _, _, theta = problem(classes)
    here, h = objective.evaluate(theta), 1e-6
    for j, unit in enumerate(np.eye(len(theta))):
        above, below = (objective.evaluate(theta + s * h * unit) for s in (1, -1))
        slope = (above.value - below.value) / (2 * h)
        assert here.gradient[j] == pytest.approx(slope, abs=1e-8)
        np.testing.assert_allclose(
            here.hessian[j], (above.gradient - below.gradient) / (2 * h), atol=1e-7
        )
    np.testing.assert_allclose(here.hessian, here.hessian.T, atol=1e-16)
    assert np.linalg.eigvalsh(here.hessian).min() > 0


def test_a_ray_is_the_objective_along_a_line():
    objective, _, _, theta = problem(4)
    direction = np.random.default_rng(3).normal(size=len(theta))
    ray = objective.along(objective.evaluate(theta), direction)
    longest = ray.longest()
    assert np.isfinite(ray.value(0.99 * longest))
    assert ray.value(1.01 * longest) == np.inf
    assert ray.value(0.3 * longest) == pytest.approx(
        objective.value(theta + 0.3 * longest * direction)
    )
    there = ray.evaluate()
    again = objective.evaluate(theta + 0.3 * longest * direction)
    np.testing.assert_allclose(there.gradient, again.gradient, atol=1e-12)
    np.testing.assert_allclose(there.hessian, again.hessian, atol=1e-11)


def test_the_null_fits_the_shares():
    objective, *_ = problem(5)
    null = objective.evaluate(objective.null())
    np.testing.assert_allclose(null.gradient[:4], 0, atol=1e-15)


def test_a_class_without_rows_is_refused():
    with pytest.raises(ValueError, match="every one of at least two classes"):
        Objective(np.zeros((4, 1)), np.array([0, 0, 2, 2]), 3)

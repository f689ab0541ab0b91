"""ER and ERK against the published code; counts that fill a budget to the last weight."""

import math

import numpy as np
import pytest

from methods.prune.allocation import densities, exact_counts
from methods.study.errors import RetrofitError
from tests.prune.golden import DST

SHAPES = [tuple(int(side) for side in row if side) for row in DST["erk_shapes"]]


@pytest.mark.parametrize("s", [0.5, 0.75, 0.9, 0.95])
@pytest.mark.parametrize("distribution", ["er", "erk"])
def test_sparsities_are_the_published_ones(s, distribution):
    weights = [math.prod(shape) for shape in SHAPES]
    found = densities(SHAPES, [1] * len(SHAPES), (1 - s) * sum(weights), distribution)
    np.testing.assert_allclose(
        1 - np.array(found), DST[f"{distribution}_sparsity_s{s}"], atol=1e-12
    )
    assert np.dot(found, weights) == pytest.approx((1 - s) * sum(weights))


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
def test_costs_are_paid_from_the_budget(distribution):
    costs = [1024, 256, 256, 64, 64, 16, 1, 256]
    full = [c * math.prod(shape) for c, shape in zip(costs, SHAPES, strict=True)]
    found = densities(SHAPES, costs, 0.3 * sum(full), distribution)
    assert np.dot(found, full) == pytest.approx(0.3 * sum(full))
    assert all(0 < density <= 1 for density in found)
    if distribution == "uniform":
        assert found == pytest.approx([0.3] * len(SHAPES))


def test_more_than_everything_is_everything_and_less_than_nothing_is_refused():
    assert densities([(4, 4)], [3], 1e9, "erk") == [1.0]
    with pytest.raises(RetrofitError, match="less than nothing"):
        densities([(4, 4)], [3], -1)
    with pytest.raises(RetrofitError, match="did you mean 'erk'"):
        densities([(4, 4)], [3], 3, "erkk")


@pytest.mark.parametrize("seed", range(20))
def test_no_layer_could_take_another_weight(seed):
    rng = np.random.default_rng(seed)
    numbers = rng.integers(1, 500, 6).tolist()
    costs = rng.choice([1, 4, 16, 49, 196], 6).tolist()
    full = sum(c * n for c, n in zip(costs, numbers, strict=True))
    budget = int(rng.integers(0, full + 1))
    shares = [budget / full] * 6
    counts = exact_counts(numbers, costs, shares, budget)
    left = budget - sum(c * n for c, n in zip(costs, counts, strict=True))
    assert left >= 0
    assert all(0 <= n <= whole for n, whole in zip(counts, numbers, strict=True))
    assert all(
        n == whole or cost > left for n, whole, cost in zip(counts, numbers, costs, strict=True)
    )
    assert all(
        abs(n - share * whole) <= 1 + 196 / cost
        for n, share, whole, cost in zip(counts, shares, numbers, costs, strict=True)
    )


def test_one_cost_leaves_nothing():
    assert sum(exact_counts([10, 10, 10], [1, 1, 1], [0.5, 0.5, 0.5], 17)) == 17

"""The laws of diffusion: recovered where they hold, rejected where they do not."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from methods.large_batch.diffusion import (
    Distance,
    compare,
    fit_log,
    fit_power,
    fit_sqrt,
    log_spaced,
    margin,
)

T = np.array(log_spaced(3000), float)


def test_log_spaced_points_are_distinct_and_span_the_range():
    points = log_spaced(3000, per_decade=12)
    assert points[0] == 1
    assert points[-1] == 3000
    assert all(a < b for a, b in itertools.pairwise(points))
    late = [b / a for a, b in itertools.pairwise(points) if a > 100]
    assert max(late) < 1.3
    assert log_spaced(1) == [1]


def test_each_law_recovers_its_own_coefficients():
    law = fit_log(T, 2 + 3 * np.log(T))
    assert law.coefficients == pytest.approx({"a": 2, "b": 3})
    assert law.r2 == pytest.approx(1)
    assert fit_power(T, 0.7 * T**0.31).coefficients == pytest.approx({"c": 0.7, "p": 0.31})
    assert fit_sqrt(T, 0.2 * np.sqrt(T)).coefficients == pytest.approx({"c": 0.2})


def test_the_power_fit_minimises_the_squared_error():
    d = 1 + 2 * np.log(T) + np.random.default_rng(0).normal(0, 0.3, len(T))
    law = fit_power(T, d)

    def error(c, p):
        return np.sum((d - c * T**p) ** 2)

    best = error(**law.coefficients)
    for dc in (-1e-3, 0, 1e-3):
        for dp in (-1e-4, 0, 1e-4):
            assert error(law.coefficients["c"] + dc, law.coefficients["p"] + dp) >= best - 1e-9


def test_a_noisy_logarithm_is_preferred_to_the_alternatives():
    d = 1 + 2 * np.log(T) + np.random.default_rng(1).normal(0, 0.2, len(T))
    laws = compare(T, d)
    assert margin(laws) > 10
    assert laws["log"].r2 > laws["power"].r2 > laws["sqrt"].r2


def test_a_free_walk_in_many_dimensions_follows_the_root_and_rejects_the_logarithm():
    steps = np.random.default_rng(2).normal(size=(3000, 400))
    distances = np.linalg.norm(np.cumsum(steps, 0), axis=1)[T.astype(int) - 1]
    laws = compare(T, distances)
    assert margin(laws) < -10
    assert laws["power"].coefficients["p"] == pytest.approx(0.5, abs=0.05)
    assert laws["sqrt"].coefficients["c"] == pytest.approx(20, rel=0.05)


def test_a_walk_in_a_random_potential_is_slower_than_any_root():
    """Sinai's walk: the potential is itself a random walk (alpha = 1), so d ~ (log t)^2."""
    rng = np.random.default_rng(3)
    walkers, steps, size = 1500, 6000, 1201
    up = np.clip(rng.uniform(size=(walkers, size)), 0.05, 0.95)  # chance to step up at each site
    place = np.full(walkers, size // 2)
    due, distances = log_spaced(steps), []
    for step in range(1, steps + 1):
        rise = rng.uniform(size=walkers) < up[np.arange(walkers), place]
        place = place + np.where(rise, 1, -1)
        if step in due:
            distances.append(float(np.mean((place - size // 2) ** 2)) ** 0.5)
    laws = compare(due, distances, t_min=30)
    assert laws["power"].coefficients["p"] < 0.35
    assert laws["log"].aic < laws["sqrt"].aic - 10
    roots = compare(due, np.sqrt(distances), t_min=30)
    assert margin(roots) > 10
    assert roots["log"].r2 > 0.995


def test_the_fit_starts_at_t_min_and_needs_five_points():
    d = np.where(T < 10, 100.0, np.log(T))
    assert compare(T, d, t_min=10)["log"].r2 == pytest.approx(1)
    with pytest.raises(ValueError, match="2 distances from step 10 on"):
        compare([1, 5, 10, 20], [1, 2, 3, 4])


def test_distance_is_the_norm_over_all_parameters_and_survives_a_checkpoint():
    module = nn.Linear(3, 2)
    distance = Distance(module.parameters())
    assert distance.now() == 0
    with torch.no_grad():
        module.weight += 2.0
        module.bias -= 1.0
    assert distance.now() == pytest.approx((6 * 4 + 2) ** 0.5)
    again = Distance(module.parameters())
    again.restore_state(*distance.state())
    assert again.now() == distance.now()

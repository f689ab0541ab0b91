"""Schedules as functions of the step."""

import math

import pytest

from methods.fit import schedules


def test_multi_step_drops_at_each_milestone():
    values = [schedules.multi_step(step, [3, 5], 0.1) for step in range(7)]
    assert values == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_piecewise_holds_the_last_value_and_refuses_an_uncovered_step():
    values = {0: 0.1, 60: 0.02, 120: 0.004}
    assert [schedules.piecewise(s, values) for s in (0, 59, 60, 500)] == [0.1, 0.1, 0.02, 0.004]
    with pytest.raises(ValueError, match="nothing about step 1"):
        schedules.piecewise(1, {2: 0.1})


def test_cosine_runs_from_one_to_the_floor_and_stays():
    assert schedules.cosine(0, 100) == 1
    assert schedules.cosine(50, 100, floor=0.2) == pytest.approx(0.6)
    assert schedules.cosine(25, 100) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert schedules.cosine(100, 100, floor=0.2) == schedules.cosine(999, 100, floor=0.2) == 0.2


def test_warm_up_moves_at_once_and_ends_at_one():
    assert [schedules.warm_up(s, 4) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert schedules.warm_up(0, 0) == schedules.constant(7) == 1
    assert schedules.warm_up(0, 4, start=0.2) == pytest.approx(0.4)

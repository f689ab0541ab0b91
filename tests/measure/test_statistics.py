"""Statistics against closed forms and published tables."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from methods.measure.statistics import (
    bootstrap_interval,
    holm,
    mean_interval,
    paired_by_label,
    paired_difference,
)
from methods.study.errors import RetrofitError


def test_mean_interval_of_three_seeds():
    found = mean_interval([1.0, 2.0, 3.0])
    # t(0.975, 2 degrees of freedom) = 4.302653 in any table; s = 1.
    assert found.value == 2.0
    assert found.stderr == pytest.approx(1 / math.sqrt(3))
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found.n == 3


def test_one_value_and_equal_values():
    one = mean_interval([4.0])
    assert (one.value, one.low, one.high, one.half_width) == (4.0, None, None, None)
    assert not one.excludes(5.0)
    same = mean_interval([4.0, 4.0])
    assert (same.low, same.high) == (4.0, 4.0)
    assert same.excludes(5.0)
    # three times 0.1 sums to 0.30000000000000004
    tenths = mean_interval([0.1] * 3)
    assert (tenths.value, tenths.half_width) == (0.1, 0.0)


def test_coverage_is_what_it_says():
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, 4))
    covered = np.mean([not mean_interval(row).excludes(3.0) for row in draws])
    assert 0.935 < covered < 0.965


def test_paired_difference_is_the_paired_t_test():
    rng = np.random.default_rng(1)
    common = rng.normal(0, 10, 12)
    a, b = common + rng.normal(0.5, 0.3, 12), common + rng.normal(0, 0.3, 12)
    found = paired_difference(a, b)
    reference = stats.ttest_rel(a, b)
    low, high = reference.confidence_interval(0.95)
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.excludes(0)  # which the spread over `common` would hide without pairing
    assert not mean_interval(a - b.mean()).excludes(0)


def test_paired_edge_cases():
    assert paired_difference([1.0, 2.0], [1.0, 2.0]).p == 1.0
    assert paired_difference([2.0, 3.0], [1.0, 2.0]).p is None
    assert paired_difference([2.0], [1.0]).p is None
    with pytest.raises(RetrofitError, match="2 values against 1"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(RetrofitError, match="not finite"):
        mean_interval([1.0, float("nan")])


def test_pairing_by_label_ignores_order_and_strangers():
    a, b = {"w0": 3.0, "w1": 5.0, "w2": 9.0}, {"w1": 4.0, "w0": 1.0, "x": 0.0}
    found = paired_by_label(a, b)
    assert (found.value, found.n) == (1.5, 2)
    with pytest.raises(RetrofitError, match="share no unit"):
        paired_by_label({"a": 1.0}, {"b": 1.0})


def test_bootstrap_agrees_with_t_for_means_and_repeats():
    values = np.random.default_rng(2).normal(5, 1, 200)
    t, boot = mean_interval(values), bootstrap_interval(values)
    assert (boot.low, boot.high) == pytest.approx((t.low, t.high), abs=0.02)
    assert bootstrap_interval(values) == boot
    median = bootstrap_interval(values, np.median)
    assert median.value == np.median(values)
    assert median.low < median.value < median.high
    assert bootstrap_interval([2.0, 2.0]).half_width == 0


def test_holm():
    # Worked by hand: 0.01*4, max(0.04, 0.02*3), max(., 0.03*2), max(., 0.04*1).
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_statistics_needs_no_torch():
    code = "import methods.measure.statistics, methods.measure.params, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

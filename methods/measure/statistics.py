"""Intervals and comparisons over seeds and test units. No torch: tables and claims import this."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from methods.study.errors import RetrofitError


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; `low` and `high` are None where one value allows none."""

    value: float
    low: float | None
    high: float | None
    n: int
    stderr: float | None = None
    p: float | None = None
    """Two-sided p-value of "the value is 0", for differences."""

    @property
    def half_width(self) -> float | None:
        """Half the length of the interval."""
        return None if self.low is None else (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        """Whether `value` lies outside the interval; False where there is no interval."""
        return self.low is not None and not self.low <= value <= self.high


def _array(values: Sequence[float], name: str) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not array.size:
        raise RetrofitError(f"{name}: expected a list of numbers, found shape {array.shape}")
    if not np.isfinite(array).all():
        raise RetrofitError(f"{name}: holds a value that is not finite")
    return array


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student-t interval of independent values (one per seed, window or replicate).

    `mean ± t(1-(1-level)/2, n-1) · s/√n`. A single value has no interval; equal values have one of
    width 0.
    """
    array = _array(values, "mean_interval")
    mean = math.fsum(array) / len(array)
    if len(array) == 1:
        return Interval(mean, None, None, 1)
    # The mean of equal numbers can miss them by a rounding, which is no spread.
    equal = bool((array == array[0]).all())
    stderr = 0.0 if equal else float(array.std(ddof=1) / math.sqrt(len(array)))
    if equal:
        mean = float(array[0])
    half = float(stats.t.ppf(0.5 + level / 2, len(array) - 1)) * stderr
    return Interval(mean, mean - half, mean + half, len(array), stderr)


def interval_from_stderr(value: float, stderr: float, n: int, level: float = 0.95) -> Interval:
    """`value ± t(1-(1-level)/2, n-1) · stderr`, for an estimate that is no plain mean of its n units.

    With the two-sided p-value of "the value is 0". A single unit has neither.
    """
    if n < 2:
        return Interval(value, None, None, n)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * stderr
    p = _p_value(value, stderr, n)
    return Interval(value, value - half, value + half, n, stderr, p)


def _p_value(value: float, stderr: float, n: int) -> float | None:
    """Two-sided t-test of "the value is 0"; None where equal values leave no spread to judge by."""
    if stderr == 0:
        return 1.0 if value == 0 else None
    return float(2 * stats.t.sf(abs(value / stderr), n - 1))


def paired_difference(
    ours: Sequence[float], theirs: Sequence[float], level: float = 0.95
) -> Interval:
    """Mean of `ours - theirs` unit by unit with its t interval and the paired t-test's p-value.

    Raises RetrofitError when the two do not have the same number of units.
    """
    a, b = _array(ours, "paired_difference"), _array(theirs, "paired_difference")
    if len(a) != len(b):
        raise RetrofitError(
            f"paired_difference: {len(a)} values against {len(b)}; they must pair up"
        )
    interval = mean_interval(a - b, level)
    if interval.stderr is None:
        return interval
    p = _p_value(interval.value, interval.stderr, len(a))
    return Interval(interval.value, interval.low, interval.high, len(a), interval.stderr, p)


def paired_by_label(
    ours: dict[str, float], theirs: dict[str, float], level: float = 0.95
) -> Interval:
    """`paired_difference` over the labels that both have; RetrofitError when there is none."""
    shared = [label for label in ours if label in theirs]
    if not shared:
        raise RetrofitError("paired_by_label: the two share no unit")
    return paired_difference([ours[k] for k in shared], [theirs[k] for k in shared], level)


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[..., float] = np.mean,
    level: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """`statistic(values)` with its bias-corrected and accelerated bootstrap interval (Efron 1987).

    For statistics without a t interval: medians, ratios, ranks. `statistic` takes `axis`.
    """
    array = _array(values, "bootstrap_interval")
    value = float(statistic(array))
    if len(array) == 1:
        return Interval(value, None, None, 1)
    if np.ptp(array) == 0:
        return Interval(value, value, value, len(array), 0.0)
    found = stats.bootstrap(
        (array,),
        statistic,
        confidence_level=level,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
    )
    low, high = (float(bound) for bound in found.confidence_interval)
    return Interval(value, low, high, len(array), float(found.standard_error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: with these, a family of claims errs at most at the chosen rate."""
    p = _array(p_values, "holm")
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    stepped = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return adjusted.tolist()

"""Exponents of power laws y ~ n^p: the slope of log y on log n, with a bootstrap over replicates. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

Aggregate = Literal["mean", "median"]
_AGGREGATES: dict[str, Callable[..., np.ndarray]] = {"mean": np.mean, "median": np.median}
_CHUNK = 256
"""Resamples at a time, so that memory stays flat in their number."""


@dataclass(frozen=True)
class Exponent:
    """A fitted exponent, and what it rests on."""

    value: float
    low: float
    high: float
    """Percentile interval over replicates."""
    stderr: float
    factor: float
    """The law is `factor · n**value`."""
    range: tuple[float, float]
    """Smallest and largest n of the fit."""
    replicates: int

    def metric(self) -> Metric:
        """As a table shows it; the standard error is the bootstrap's."""
        return Metric(self.value, stderr=self.stderr, n=self.replicates)


def slope(log_n: np.ndarray, log_y: np.ndarray) -> np.ndarray:
    """Least-squares slope over the last axis: log_n [s], log_y [..., s] -> [...]."""
    centred = log_n - log_n.mean()
    return (log_y * centred).sum(-1) / (centred**2).sum()


def exponent(
    n: np.ndarray,
    y: np.ndarray,
    aggregate: Aggregate = "mean",
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Exponent:
    """Fit y ~ n^p to replicates: n [s] sizes, y [s, r] positive values, r replicates of each size.

    Each resample draws the replicates of every size anew and independently, aggregates them and fits the slope
    again. Raises RetrofitError for fewer than three sizes, fewer than two replicates, or values that are not
    positive and finite.
    """
    n, y = np.asarray(n, dtype=float), np.asarray(y, dtype=float)
    if y.ndim != 2 or len(n) != len(y):
        raise RetrofitError(f"exponent: {n.shape} sizes do not fit values of shape {y.shape}")
    sizes, replicates = y.shape
    if len(np.unique(n)) < 3 or replicates < 2:
        raise RetrofitError(
            f"exponent: needs three sizes and two replicates, found {len(np.unique(n))} and {replicates}"
        )
    if not (np.isfinite(y).all() and (y > 0).all() and (n > 0).all()):
        raise RetrofitError("exponent: sizes and values must be positive and finite")
    over, log_n = _AGGREGATES[aggregate], np.log(n)
    log_y = np.log(over(y, axis=1))
    value = float(slope(log_n, log_y))
    rng = np.random.default_rng(seed)
    drawn = []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        chosen = rng.integers(replicates, size=(count, sizes, replicates))
        again = np.take_along_axis(np.broadcast_to(y, (count, *y.shape)), chosen, axis=2)
        drawn.append(slope(log_n, np.log(over(again, axis=2))))
    slopes = np.concatenate(drawn)
    low, high = np.quantile(slopes, [0.5 - level / 2, 0.5 + level / 2])
    factor = float(np.exp(log_y.mean() - value * log_n.mean()))
    return Exponent(
        value,
        float(low),
        float(high),
        float(slopes.std(ddof=1)),
        factor,
        (float(n.min()), float(n.max())),
        replicates,
    )

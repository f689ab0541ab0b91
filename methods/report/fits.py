"""Laws that a curve may follow, fitted by least squares: y = a + b ln x, and y = c x^p in y or in ln y."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from methods.report.numbers import significant

Law = Literal["log", "power", "scaling"]
RIVALS: dict[Law, tuple[Law, ...]] = {
    "log": ("log", "power"),
    "power": ("power", "log"),
    "scaling": ("scaling",),
}
"""Which laws are drawn where one is asked for: that one, then those it is held against."""


@dataclass(frozen=True)
class Fit:
    """A fitted law: a, b of the logarithm, or c, p of the power; all have two parameters."""

    law: Law
    first: float
    second: float
    r_squared: float
    """1 − residual / total sum of squares, of y for `log` and `power`, of ln y for `scaling`."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The law's values at x > 0."""
        if self.law == "log":
            return self.first + self.second * np.log(x)
        return self.first * x**self.second

    @property
    def equation(self) -> str:
        """The law with its numbers."""
        if self.law == "log":
            sign = "+" if self.second >= 0 else "\u2212"
            return f"{significant(self.first)} {sign} {significant(abs(self.second))} ln x"
        return f"{significant(self.first)} x^{significant(self.second)}"

    @property
    def sentence(self) -> str:
        """Equation and how well it fits."""
        return f"y = {self.equation}, R² = {_r_squared(self.r_squared)}"


def fit(law: Law, x: Sequence[float], y: Sequence[float]) -> Fit | None:
    """Least squares in y over the points with x > 0; None for fewer than three points, or one x only.

    `power` is fitted to y itself, so that it and `log` answer to the same residuals; `scaling` to ln y over
    the points with y > 0, as exponents are.
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    kept = (xs > 0) & np.isfinite(ys) & ((ys > 0) | (law != "scaling"))
    xs, ys = xs[kept], ys[kept]
    if len(np.unique(xs)) < 3:
        return None
    if law == "scaling":
        p, ln_c = np.polyfit(np.log(xs), np.log(ys), 1)
        found = (float(np.exp(ln_c)), float(p))
    elif law == "log":
        b, a = np.polyfit(np.log(xs), ys, 1)
        found = (float(a), float(b))
    else:
        found = _power(xs, ys)
        if found is None:
            return None
    made = Fit(law, *found, 0.0)
    seen, fitted = (np.log(ys), np.log(made(xs))) if law == "scaling" else (ys, made(xs))
    residual = float(((seen - fitted) ** 2).sum())
    total = float(((seen - seen.mean()) ** 2).sum())
    return Fit(law, *found, 1 - residual / total if total > 0 else math.nan)


def _power(xs: np.ndarray, ys: np.ndarray) -> tuple[float, float] | None:
    """For each exponent the factor is known in closed form, so one number is searched for."""
    from scipy.optimize import minimize_scalar

    scaled = xs / xs.max()  # keeps x^p in range

    def factor(p: float) -> float:
        powers = scaled**p
        return float(powers @ ys / (powers @ powers))

    def loss(p: float) -> float:
        return float(((ys - factor(p) * scaled**p) ** 2).sum())

    grid = np.linspace(-3, 3, 121)
    start = grid[int(np.argmin([loss(p) for p in grid]))]
    found = minimize_scalar(loss, bounds=(start - 0.05, start + 0.05), method="bounded")
    p = float(found.x)
    c = factor(p) / float(xs.max()) ** p
    return (c, p) if math.isfinite(c) else None


def _r_squared(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "undefined"

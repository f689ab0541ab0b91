"""How far the weights walk: ||w_t - w_0|| against log t, and the laws it is held against.

Hoffer, Hubara, Soudry 2017 (arXiv 1705.08741), section 3: in a random potential whose increments
grow as ||w1 - w2||^alpha, E||w_t - w_0||^2 ~ (log t)^(4/alpha). The observed ||w_t - w_0|| ~ log t
in the first phase of constant learning rate means alpha = 2.

Fidelity
--------
Paper: the distance over the whole network at the first learning rate. Published code logs the
distance of the first parameter tensor only (``step_dist``); here it is over all parameters.
Three laws are fitted to the same points by least squares in d, and compared by AIC: the log law
d = a + b ln t, the power law d = c t^p, and free diffusion d = c sqrt(t). The points of one walk
are not independent, so AIC ranks the laws for this walk; intervals come from seeds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Law:
    """One fitted law: its coefficients, share of variance explained, and AIC (smaller is better)."""

    name: str
    coefficients: dict[str, float]
    r2: float
    aic: float


def log_spaced(steps: int, per_decade: int = 12) -> list[int]:
    """Distinct integers from 1 to ``steps``, evenly spaced in log t where integers allow."""
    count = max(2, round(np.log10(max(steps, 2)) * per_decade) + 1)
    return sorted({int(t) for t in np.round(np.geomspace(1, steps, count))})


def fit_log(t: np.ndarray, d: np.ndarray) -> Law:
    """d = a + b ln t by ordinary least squares."""
    design = np.stack([np.ones_like(d), np.log(t)], 1)
    (a, b), *_ = np.linalg.lstsq(design, d, rcond=None)
    return _law("log", {"a": float(a), "b": float(b)}, d, a + b * np.log(t))


def fit_power(t: np.ndarray, d: np.ndarray) -> Law:
    """d = c t^p by least squares in d; c is closed-form given p, and p is searched in -2..3."""

    def c_of(p: float) -> float:
        return float((d @ t**p) / (t**p @ t**p))

    def residual(p: float) -> float:
        return float(np.sum((d - c_of(p) * t**p) ** 2))

    low, high = -2.0, 3.0
    for _ in range(8):  # each round narrows a grid of 41 to the two intervals around its best
        grid = np.linspace(low, high, 41)
        best = grid[int(np.argmin([residual(p) for p in grid]))]
        width = (high - low) / 40
        low, high = best - width, best + width
    return _law("power", {"c": c_of(best), "p": float(best)}, d, c_of(best) * t**best)


def fit_sqrt(t: np.ndarray, d: np.ndarray) -> Law:
    """d = c sqrt(t), a free Gaussian walk, by least squares."""
    root = np.sqrt(t)
    c = float((d @ root) / (root @ root))
    return _law("sqrt", {"c": c}, d, c * root)


def compare(t: Iterable[float], d: Iterable[float], t_min: int = 10) -> dict[str, Law]:
    """All three laws over the points with t >= t_min, by name.

    Raises ValueError where fewer than five points are left.
    """
    times, distances = np.asarray(list(t), float), np.asarray(list(d), float)
    chosen = times >= t_min
    if chosen.sum() < 5:
        raise ValueError(
            f"{int(chosen.sum())} distances from step {t_min} on: a fit needs at least 5"
        )
    points = times[chosen], distances[chosen]
    return {law.name: law for law in (fit_log(*points), fit_power(*points), fit_sqrt(*points))}


def margin(laws: dict[str, Law]) -> float:
    """By how much AIC prefers the log law to the better of the others; negative: it does not."""
    return min(laws["power"].aic, laws["sqrt"].aic) - laws["log"].aic


class Distance:
    """||w - w_0|| over all parameters of a network, from where it was made."""

    def __init__(self, parameters: Iterable[Tensor]):
        self._parameters = list(parameters)
        self._start = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def now(self) -> float:
        """The distance at this moment."""
        total = sum(
            float((p - start).double().square().sum())
            for p, start in zip(self._parameters, self._start, strict=True)
        )
        return total**0.5

    def state(self) -> tuple[dict[str, Tensor], dict]:
        """The starting point, for a checkpoint."""
        return {str(n): start for n, start in enumerate(self._start)}, {}

    def restore_state(self, tensors: dict[str, Tensor], state: dict) -> None:
        """Measure from the saved starting point again."""
        self._start = [tensors[str(n)].to(p.device) for n, p in enumerate(self._parameters)]


def _law(name: str, coefficients: dict[str, float], d: np.ndarray, fitted: np.ndarray) -> Law:
    n, squares = len(d), float(np.sum((d - fitted) ** 2))
    total = float(np.sum((d - d.mean()) ** 2))
    # Gaussian likelihood; one more parameter for the residual variance. The floor keeps a perfect
    # fit finite.
    floor = 1e-24 * max(float(d @ d), 1e-300)
    aic = n * np.log(max(squares, floor) / n) + 2 * (len(coefficients) + 1)
    return Law(name, coefficients, 1.0 - squares / total if total > 0 else 0.0, float(aic))

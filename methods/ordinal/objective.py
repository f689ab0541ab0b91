"""The mean negative log-likelihood of a data set, its gradient and exact Hessian, in PRESTO's parameters.

theta [q + q p] = (a_0..a_{q-1}, psi_1 [p], .., psi_q [p]) with B_k = psi_1 + .. + psi_k (the paper's
reparametrisation: the penalty on adjacent differences becomes a plain lasso).

Rows are sorted by class once.  A row of class c touches etas c-1 and c only, so each class is one
contiguous slice of a matrix product and the Hessian in (a, B) is block tridiagonal; the change to psi is a
reversed cumulative sum over blocks.  Memory is that of x, whatever K.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np


class Predictors(NamedTuple):
    """u of the rows of all but the last class, v of all but the first, and t = u - v of the middle ones."""

    u: np.ndarray
    v: np.ndarray
    t: np.ndarray

    def moved(self, step: float, by: Predictors) -> Predictors:
        """The predictors of theta + step direction, which are linear in the step."""
        return Predictors(*(a + step * b for a, b in zip(self, by, strict=True)))


class Terms(NamedTuple):
    """The sum of -log P; z = (-u, v), e^-|z| and 1 / (e^t - 1), from which derivatives follow."""

    total: float
    z: np.ndarray | None
    small: np.ndarray | None
    r: np.ndarray | None


@dataclass(frozen=True)
class Evaluation:
    """Value, gradient [m] and Hessian [m, m] at theta [m], m = q (1 + p).

    The Hessian costs more than all the rest, and the last point of a fit has no use for it.
    """

    theta: np.ndarray
    value: float
    gradient: np.ndarray
    predictors: Predictors
    make_hessian: Callable[[], np.ndarray]

    @cached_property
    def hessian(self) -> np.ndarray:
        """Computed when first asked for."""
        return self.make_hessian()


class Ray:
    """The objective along start + s direction: x is read once, however many steps are tried."""

    def __init__(self, objective: Objective, start: Evaluation, direction: np.ndarray):
        self._objective, self._start, self._direction = objective, start, direction
        self._slope = objective.predictors(direction)
        self._last: tuple[float, Predictors, Terms] | None = None

    def value(self, step: float) -> float:
        """The objective after a step, +inf outside the domain."""
        at = self._start.predictors.moved(step, self._slope)
        terms = self._objective._terms(at)
        self._last = (step, at, terms)
        return terms.total / self._objective.n

    def longest(self) -> float:
        """The largest step that stays in the closed domain (inf: no bound)."""
        t, slope = self._start.predictors.t, self._slope.t
        closing = slope < 0.0
        return float((-t[closing] / slope[closing]).min(initial=np.inf))

    def evaluate(self) -> Evaluation:
        """Value, gradient and Hessian after the step last tried."""
        step, at, terms = self._last
        theta = self._start.theta + step * self._direction
        return self._objective._evaluation(theta, at, terms)


class Objective:
    """Likelihood of the observed classes.  `x` [n, p] is used as given (centre and scale it before).

    y: int [n] in 0..classes-1, every class present (`counts` [K]); else ValueError.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, classes: int):
        order = np.argsort(y, kind="stable")
        self.n, self.p = x.shape
        self.classes, self.q = classes, classes - 1
        self.size = self.q * (1 + self.p)
        self.counts = np.bincount(y, minlength=classes)
        if classes < 2 or len(self.counts) != classes or not self.counts.all():
            raise ValueError(f"every one of at least two classes needs rows; counts {self.counts}")
        self.order = order
        # Columns are contiguous: weighting rows and the thin matrix products are faster so.
        self._x = np.ones((self.p + 1, self.n))
        self._x[1:] = x[order].T
        bounds = np.concatenate([[0], np.cumsum(self.counts)])
        self._slices = [slice(bounds[c], bounds[c + 1]) for c in range(classes)]
        # Buffers over rows: z = (-u of all but the last class, v of all but the first).
        self._uppers = bounds[-2]
        self._lower_start = bounds[1]
        self._middle = bounds[-2] - bounds[1]

    def null(self) -> np.ndarray:
        """theta with the intercepts that fit the class shares, and no slopes."""
        theta = np.zeros(self.size)
        share = np.cumsum(self.counts[:-1]) / self.n
        theta[: self.q] = np.log(share) - np.log1p(-share)
        return theta

    def blocks(self, theta: np.ndarray) -> np.ndarray:
        """(a, B) as one matrix [p + 1, q], intercepts first."""
        q, p = self.q, self.p
        joint = np.empty((p + 1, q))
        joint[0] = theta[:q]
        joint[1:] = np.cumsum(theta[q:].reshape(q, p), axis=0).T
        return joint

    def predictors(self, theta: np.ndarray) -> Predictors:
        """u of the rows of classes 0..K-2 and v of those of classes 1..K-1 (sorted rows)."""
        joint, x, q = self.blocks(theta), self._x, self.q
        u, v = np.empty(self._uppers), np.empty(self.n - self._lower_start)
        start = self._lower_start
        for c, rows in enumerate(self._slices):
            if c < q:
                u[rows] = joint[:, c] @ x[:, rows]
            if c:
                v[rows.start - start : rows.stop - start] = joint[:, c - 1] @ x[:, rows]
        return Predictors(u, v, u[start:] - v[: self._middle])

    def value(self, theta: np.ndarray) -> float:
        """Mean -log P(y_i | x_i), +inf outside the domain."""
        return self._terms(self.predictors(theta)).total / self.n

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Value, gradient and Hessian; theta must lie in the domain."""
        predictors = self.predictors(theta)
        return self._evaluation(theta, predictors, self._terms(predictors))

    def along(self, start: Evaluation, direction: np.ndarray) -> Ray:
        """The half-line start + s direction."""
        return Ray(self, start, direction)

    def _terms(self, at: Predictors) -> Terms:
        """What value and derivatives share; a total of +inf outside the domain."""
        if at.t.size and not at.t.min() > 0.0:
            return Terms(np.inf, None, None, None)
        z = np.concatenate([-at.u, at.v])
        small = np.exp(-np.abs(z))
        with np.errstate(over="ignore", divide="ignore"):
            r = 1.0 / np.expm1(at.t)
            total = np.maximum(z, 0.0).sum() + np.log1p(small).sum() + np.log1p(r).sum()
        return Terms(float(total), z, small, r)

    def _evaluation(self, theta: np.ndarray, at: Predictors, terms: Terms) -> Evaluation:
        start, middle, uppers = self._lower_start, self._middle, self._uppers
        sigma = np.where(terms.z >= 0.0, 1.0, terms.small) / (1.0 + terms.small)
        upper, lower = -sigma[:uppers], sigma[uppers:].copy()
        upper[start:] -= terms.r
        lower[:middle] += terms.r
        gradient = np.zeros((self.q, self.p + 1))
        for c, rows in enumerate(self._slices):
            x = self._x[:, rows]
            if c < self.q:
                gradient[c] += x @ upper[rows]
            if c:
                gradient[c - 1] += x @ lower[rows.start - start : rows.stop - start]
        return Evaluation(
            theta,
            terms.total / self.n,
            by_psi(gradient) / self.n,
            at,
            lambda: self._hessian(sigma, terms.r),
        )

    def _hessian(self, sigma: np.ndarray, r: np.ndarray) -> np.ndarray:
        """From sigma(z) and r = 1 / (e^t - 1)."""
        q, m, start, uppers = self.q, self.p + 1, self._lower_start, self._uppers
        curvature = sigma * (1.0 - sigma)
        shared = r * (1.0 + r)
        upper, lower = curvature[:uppers], curvature[uppers:]
        upper[start:] += shared
        lower[: self._middle] += shared
        hessian = np.zeros((q, q, m, m))
        for c, rows in enumerate(self._slices):
            x = self._x[:, rows]
            below = slice(rows.start - start, rows.stop - start)
            if c < q:
                hessian[c, c] += (x * upper[rows]) @ x.T
            if c:
                hessian[c - 1, c - 1] += (x * lower[below]) @ x.T
            if 0 < c < q:
                cross = (x * shared[below]) @ x.T
                hessian[c, c - 1] -= cross
                hessian[c - 1, c] -= cross
        return by_psi_twice(hessian) / self.n


def by_psi(gradient: np.ndarray) -> np.ndarray:
    """Derivatives by (a_k, B_k), [q, 1 + p], as derivatives by theta [q + q p]."""
    slopes = gradient[:, 1:].copy()
    _cumulate(slopes)
    return np.concatenate([gradient[:, 0], slopes.ravel()])


def by_psi_twice(hessian: np.ndarray) -> np.ndarray:
    """Second derivatives by (a, B), [q, q, 1 + p, 1 + p] (overwritten), as [m, m] by theta."""
    q, p = len(hessian), hessian.shape[-1] - 1
    full = np.empty((q + q * p, q + q * p))
    full[:q, :q] = hessian[:, :, 0, 0]
    _cumulate(hessian.swapaxes(0, 1))
    mixed = hessian[:, :, 0, 1:].reshape(q, q * p)
    full[:q, q:] = mixed
    full[q:, :q] = mixed.T
    _cumulate(hessian)
    full[q:, q:] = hessian[:, :, 1:, 1:].swapaxes(1, 2).reshape(q * p, q * p)
    return full


def _cumulate(blocks: np.ndarray) -> None:
    """Sum over k >= l along the first axis, in place: what a derivative by B_k becomes by psi_l."""
    for k in range(len(blocks) - 1, 0, -1):
        blocks[k - 1] += blocks[k]

"""PRESTO with the order of all cumulative curves on all training rows (`feasible="all_rows"`).

The likelihood keeps only the curves of the observed classes in order.  Asking for every class on every
row adds n (K-2) linear constraints eta_k > eta_{k-1}.  They enter as a log barrier,

    f(theta) - (mu / n) sum_i sum_k log(eta_ik - eta_{i,k-1}),

minimised by the same proximal Newton steps for falling mu.  The barrier's minimum lies within
mu (K-2) of the constrained one, so the last mu makes the answer exact to `GAP`.  The published solver instead
refuses steps that leave the domain, jams at its edge and copies the fit to all smaller lambdas (`released`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from methods.ordinal.newton import Penalty, Solution, minimise
from methods.ordinal.objective import Evaluation, Objective

GAP = 1e-8
"""How far the objective may lie above the constrained minimum."""
TOLERANCE = 1e-6
"""Of the optimality conditions: gaps of order mu lose digits, so a closer end is out of reach."""
FIRST, FALL = 1e-2, 0.1


class Barrier:
    """`objective` plus the log barrier on all gaps of all rows; x [n, p] as the objective has it."""

    def __init__(self, objective: Objective, x: np.ndarray, mu: float):
        self.inner, self.mu = objective, mu
        self._x = np.hstack([np.ones((len(x), 1)), x])

    def gaps(self, theta: np.ndarray) -> np.ndarray:
        """eta_k - eta_{k-1} [n, q - 1]; linear in theta."""
        objective, q = self.inner, self.inner.q
        joint = np.empty((objective.p + 1, q - 1))
        joint[0] = np.diff(theta[:q])
        joint[1:] = theta[q:].reshape(q, objective.p)[1:].T
        return self._x @ joint

    def evaluate(self, theta: np.ndarray) -> Evaluation:
        """Value, gradient and Hessian of both terms."""
        return self._add(self.inner.evaluate(theta))

    def along(self, start: Evaluation, direction: np.ndarray) -> _BarrierRay:
        """The half-line start + s direction."""
        return _BarrierRay(self, start, direction)

    def _add(self, inner: Evaluation) -> Evaluation:
        inverse = 1.0 / self.gaps(inner.theta)
        scale = self.mu / len(self._x)
        gradient = inner.gradient.copy()
        for k in range(1, self.inner.q):
            slope = scale * (inverse[:, k - 1] @ self._x)
            gradient[self._block(k)] -= slope
            gradient[k - 1] += slope[0]
        return replace(
            inner,
            value=inner.value + scale * float(np.log(inverse).sum()),
            gradient=gradient,
            make_hessian=lambda: self._hessian(inner.hessian, scale * inverse**2),
        )

    def _hessian(self, inner: np.ndarray, weight: np.ndarray) -> np.ndarray:
        hessian = inner.copy()
        for k in range(1, self.inner.q):
            block = self._block(k)
            curve = (self._x * weight[:, k - 1, None]).T @ self._x
            hessian[np.ix_(block, block)] += curve
            hessian[k - 1, block] -= curve[0]
            hessian[block, k - 1] -= curve[0]
            hessian[k - 1, k - 1] += curve[0, 0]
        return hessian

    def _block(self, k: int) -> np.ndarray:
        """Where the k-th gap, a_k - a_{k-1} + x.psi_k, has its own coordinates in theta."""
        q, p = self.inner.q, self.inner.p
        return np.concatenate([[k], np.arange(q + k * p, q + (k + 1) * p)])


class _BarrierRay:
    def __init__(self, barrier: Barrier, start: Evaluation, direction: np.ndarray):
        self._barrier = barrier
        self._inner = barrier.inner.along(start, direction)
        self._gaps, self._slope = barrier.gaps(start.theta), barrier.gaps(direction)

    def value(self, step: float) -> float:
        inner = self._inner.value(step)
        gaps = self._gaps + step * self._slope
        if not gaps.min() > 0.0 or np.isinf(inner):
            return np.inf
        return inner - self._barrier.mu / len(gaps) * float(np.log(gaps).sum())

    def longest(self) -> float:
        closing = self._slope < 0.0
        own = (-self._gaps[closing] / self._slope[closing]).min(initial=np.inf)
        return min(float(own), self._inner.longest())

    def evaluate(self) -> Evaluation:
        return self._barrier._add(self._inner.evaluate())


def ordered_everywhere(
    objective: Objective, x: np.ndarray, free: Solution, penalty: Penalty
) -> Solution:
    """The constrained minimum: `free` (the minimum without constraints) itself where it is in order."""
    if objective.q < 2 or Barrier(objective, x, 0.0).gaps(free.evaluation.theta).min() > 0.0:
        return free
    # The null model is in order, and convexity keeps the way towards the free minimum so for a while.
    anchor = objective.null()
    towards = free.evaluation.theta - anchor
    barrier = Barrier(objective, x, FIRST)
    gaps, slope = barrier.gaps(anchor), barrier.gaps(towards)
    closing = slope < 0.0
    share = 0.5 * min(1.0, float((-gaps[closing] / slope[closing]).min(initial=np.inf)))
    theta, mu, steps = anchor + share * towards, FIRST, 0
    before: np.ndarray | None = None
    trace: list[float] = []
    while True:
        last = mu * (objective.q - 1) <= GAP
        barrier = Barrier(objective, x, mu)
        goal = TOLERANCE if last else max(TOLERANCE, mu)
        found = minimise(barrier, barrier.evaluate(theta), penalty, goal)
        centre, steps = found.evaluation.theta, steps + found.steps
        trace.extend(found.objectives)
        if last:
            break
        # The central path is nearly straight in mu: go on in its direction as far as the domain allows.
        theta = centre
        if before is not None:
            ahead = (centre - before) * ((1.0 - FALL) / (1.0 / FALL - 1.0))
            reach = _BarrierRay(barrier, found.evaluation, ahead).longest()
            theta = centre + min(1.0, 0.9 * reach) * ahead
        before, mu = centre, mu * FALL
    inner = objective.evaluate(centre)
    reached = inner.value + penalty.value(centre)
    return Solution(inner, reached, found.kkt, steps, found.converged, tuple(trace))

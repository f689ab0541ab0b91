"""Proximal Newton: a smooth convex objective plus l1 and squared l2 terms, coordinate by coordinate.

Each step minimises the quadratic model with the exact Hessian plus the penalty (`subproblem.solve`, a handful of
tiny linear systems), then backtracks by Armijo's rule, never leaving the domain.  Convergence is judged by the
optimality conditions of the problem itself, not by how little the objective moved: that is how the
published solver comes to a stop at the edge of the domain (see `released`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from methods.ordinal.objective import Evaluation, Ray
from methods.ordinal.subproblem import solve

ARMIJO, SHRINK, HALVINGS = 1e-4, 0.5, 40
TO_THE_EDGE = 0.995
"""The share of the way to the domain's edge that one step may take."""


RUNAWAY = 0.01
"""Where free slopes still want to move this far (in standard deviations of x) although the gradient
vanishes, the likelihood has no maximum: Newton's steps on separated classes do not shrink."""


class Smooth(Protocol):
    """What the solver needs of a smooth objective: its values along half-lines."""

    def along(self, start: Evaluation, direction: np.ndarray) -> Ray:
        """The half-line start + s direction."""


@dataclass(frozen=True)
class Penalty:
    """lam w (l1_ratio |psi| + (1 - l1_ratio)/2 psi^2), as vectors over theta [m]."""

    l1: np.ndarray
    l2: np.ndarray

    def value(self, theta: np.ndarray) -> float:
        """The penalty at theta."""
        return float(self.l1 @ np.abs(theta) + 0.5 * (self.l2 @ theta**2))


@dataclass(frozen=True)
class Solution:
    """The end of one minimisation: `objective` with the penalty, `kkt` the largest violation."""

    evaluation: Evaluation
    objective: float
    kkt: float
    steps: int
    converged: bool
    objectives: tuple[float, ...]


def kkt_violation(gradient: np.ndarray, theta: np.ndarray, penalty: Penalty) -> float:
    """The largest distance of 0 from the subdifferential, over coordinates."""
    pull = gradient + penalty.l2 * theta
    still = np.maximum(np.abs(pull) - penalty.l1, 0.0)
    moved = np.abs(pull + penalty.l1 * np.sign(theta))
    return float(np.where(theta == 0.0, still, moved).max(initial=0.0))


def minimise(
    smooth: Smooth,
    start: Evaluation,
    penalty: Penalty,
    tol: float = 1e-7,
    max_iter: int = 100,
    free: np.ndarray | None = None,
) -> Solution:
    """Proximal Newton from `start` until the optimality conditions hold to `tol`.

    free: bool [m], coordinates that may move (all).  The objective falls with every step.  The last step
    is not followed by another model, so a warm start pays one evaluation per step.
    """
    now = start
    objective = now.value + penalty.value(now.theta)
    trace = [objective]
    index = slice(None) if free is None else np.flatnonzero(free)
    part = Penalty(penalty.l1[index], penalty.l2[index])
    steps = 0
    while True:
        theta, gradient = now.theta, now.gradient[index]
        violation = kkt_violation(gradient, theta[index], part)
        if violation <= tol or steps == max_iter:
            break
        hessian = now.hessian if free is None else now.hessian[np.ix_(index, index)]
        direction = np.zeros_like(theta)
        direction[index] = _model_minimum(hessian, gradient, theta[index], part) - theta[index]
        fall = _predicted_fall(now, direction, penalty)
        ray = smooth.along(now, direction)
        if not _line_search(ray, now, direction, penalty, objective, fall):
            break  # no representable progress is left
        now = ray.evaluate()
        objective = now.value + penalty.value(now.theta)
        trace.append(objective)
        steps += 1
    return Solution(now, objective, violation, steps, violation <= tol, tuple(trace))


def runs_away(solution: Solution, penalty: Penalty, free: np.ndarray | None = None) -> bool:
    """Would one more step still go far, although the gradient vanishes?"""
    index = slice(None) if free is None else np.flatnonzero(free)
    now, part = solution.evaluation, Penalty(penalty.l1[index], penalty.l2[index])
    theta, hessian = now.theta[index], now.hessian[index][:, index]
    goal = _model_minimum(hessian, now.gradient[index], theta, part)
    return bool(np.abs(goal - theta).max() > RUNAWAY)


def _model_minimum(
    hessian: np.ndarray, gradient: np.ndarray, theta: np.ndarray, penalty: Penalty
) -> np.ndarray:
    """argmin over w of gradient.(w - theta) + (w - theta)'H(w - theta)/2 + penalty(w)."""
    diagonal = np.diagonal(hessian)
    ridge = 1e-13 * (diagonal + 1e-8 * diagonal.max())
    for _ in range(8):
        # Collinear columns and separated classes leave H singular; a hair of ridge leaves the answer.
        damped = hessian.copy()
        damped.flat[:: len(theta) + 1] += ridge
        quadratic = damped.copy()
        quadratic.flat[:: len(theta) + 1] += penalty.l2
        try:
            return solve(quadratic, gradient - damped @ theta, penalty.l1, theta)
        except FloatingPointError:
            ridge *= 100.0
    raise FloatingPointError("the likelihood's Hessian is not finite")


def _predicted_fall(now: Evaluation, direction: np.ndarray, penalty: Penalty) -> float:
    """First-order change of the objective for a whole step: negative, the yardstick of Armijo's rule."""
    moved = penalty.value(now.theta + direction) - penalty.value(now.theta)
    return float(now.gradient @ direction) + moved


def _line_search(
    ray: Ray,
    now: Evaluation,
    direction: np.ndarray,
    penalty: Penalty,
    objective: float,
    fall: float,
) -> bool:
    """Try steps until one lowers the objective enough; False where rounding drowns every step."""
    step = 1.0
    rounding = 4.0 * np.finfo(float).eps * abs(objective)
    for _ in range(HALVINGS):
        reached = ray.value(step) + penalty.value(now.theta + step * direction)
        if reached <= objective + ARMIJO * step * fall:
            return True
        if -step * fall <= rounding and reached <= objective + rounding:
            return True
        step *= SHRINK
        if np.isinf(reached):
            step = min(step / SHRINK, TO_THE_EDGE * ray.longest())
    return False

"""PRESTO's exact convex problem by proximal Newton steps, along a path of penalties.

    min over a, psi:  -(1/n) sum_i log P(y_i | x_i) + lam sum_j w_j (l1_ratio |psi_j| + (1 - l1_ratio)/2 psi_j^2)

(arXiv 2305.18700, equation 7 in the form of the published solver: intercepts free, w_j = 1, the first
block B_1 = psi_1 included).  Each step minimises the quadratic model with the exact Hessian plus the penalty
(`subproblem.solve`, a handful of tiny linear systems), then backtracks (Armijo).  Convergence is judged by
the optimality conditions of the problem itself, not by how little the objective moved: that is how the
published solver comes to a stop at the edge of the domain (see `released`).

Fidelity
--------
Paper: objective, lasso on adjacent differences, standardised columns.  Published code: penalised first
block, ridge as elastic net with l1_ratio 0 (`presto-l2`), lam_max and log-spaced path.  Chosen: the likelihood
of observed classes only, whose domain is what the data ask for (`feasible="observed"`; rows where cumulative
curves cross are counted), or the order of all cumulative curves on all training rows
(`feasible="all_rows"`), exact to `barrier.GAP`; `penalize_first=False`, of which the limit lam -> inf is the
proportional odds model.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from methods.ordinal.likelihood import linear_predictors
from methods.ordinal.objective import Evaluation, Objective, Ray
from methods.ordinal.subproblem import solve

Feasible = Literal["observed", "all_rows"]
SMALLEST_L1_RATIO = 0.01
"""For lam_max under (nearly) pure ridge, as in the published solver: no finite lam gives zero there."""
ARMIJO, SHRINK, HALVINGS = 1e-4, 0.5, 40
TO_THE_EDGE = 0.995
"""The share of the way to the domain's edge that one step may take."""


RUNAWAY = 0.01
"""Where free slopes still want to move this far (in standard deviations of x) although the gradient
vanishes, the likelihood has no maximum: Newton's steps on separated classes do not shrink."""


class NotConverged(UserWarning):
    """A fit stopped before its optimality conditions held; the likelihood may have no maximum."""


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


def weights(q: int, p: int, penalize_first: bool = True) -> np.ndarray:
    """1 for penalised coordinates of theta [q + q p], 0 for free ones."""
    weight = np.ones(q + q * p)
    weight[: q if penalize_first else q + p] = 0.0
    return weight


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


@dataclass(frozen=True)
class Path:
    """Fits on the original scale of x, one for each penalty.

    lambdas [L]; intercepts a [L, q]; coefs B [L, q, p]; objectives [L] (with the penalty, on standardised
    columns); kkt [L]; steps [L] Newton steps; theta [L, m] on standardised columns; converged bool [L].
    """

    lambdas: np.ndarray
    intercepts: np.ndarray
    coefs: np.ndarray
    objectives: np.ndarray
    kkt: np.ndarray
    steps: np.ndarray
    theta: np.ndarray
    converged: np.ndarray

    def predictors(self, x: np.ndarray) -> np.ndarray:
        """eta [L, n, q] of rows x [n, p]."""
        return linear_predictors(x, self.intercepts, self.coefs)


class Problem:
    """A data set prepared for fitting: standardised, sorted, with its null model and largest penalty.

    x: float [n, p], y: int [n] in 0..classes-1.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        classes: int,
        *,
        l1_ratio: float = 1.0,
        penalize_first: bool = True,
        standardize: bool = True,
        feasible: Feasible = "observed",
        tol: float = 1e-7,
        max_iter: int = 100,
    ):
        self.mean, self.scale = standardisation(x) if standardize else (0.0, 1.0)
        self._x = (x - self.mean) / self.scale
        self.objective = Objective(self._x, y, classes)
        self.feasible = feasible
        self.l1_ratio, self.tol, self.max_iter = l1_ratio, tol, max_iter
        self._all_penalised = penalize_first
        self.weight = weights(self.objective.q, self.objective.p, penalize_first)
        self.null = self._null(penalize_first)
        pull = np.abs(self.null.gradient) * self.weight
        self.lam_max = float(pull.max() / max(l1_ratio, SMALLEST_L1_RATIO))

    def _null(self, penalize_first: bool) -> Evaluation:
        null = self.objective.evaluate(self.objective.null())
        if penalize_first:
            return null
        return self.parallel(null).evaluation

    def parallel(self, start: Evaluation | None = None) -> Solution:
        """The proportional odds model: psi_k = 0 for k >= 2, nothing penalised."""
        objective = self.objective
        start = start or objective.evaluate(objective.null())
        free = weights(objective.q, objective.p, penalize_first=False) == 0.0
        nothing = Penalty(np.zeros(objective.size), np.zeros(objective.size))
        found = minimise(objective, start, nothing, self.tol, self.max_iter, free)
        return replace(found, converged=found.converged and not runs_away(found, nothing, free))

    def lambdas(self, count: int, ratio: float) -> np.ndarray:
        """[count] penalties, log-spaced from lam_max down to lam_max * ratio."""
        return self.lam_max * np.geomspace(1.0, ratio, count)

    def penalty(self, lam: float) -> Penalty:
        """The penalty vectors for one lam."""
        return Penalty(lam * self.l1_ratio * self.weight, lam * (1.0 - self.l1_ratio) * self.weight)

    def path(self, lambdas: np.ndarray) -> Path:
        """Warm-started fits for falling `lambdas` [L]; warns `NotConverged` where one did not converge."""
        now, found = self.null, []
        for lam in lambdas:
            penalty = self.penalty(lam)
            solution = minimise(self.objective, now, penalty, self.tol, self.max_iter)
            now = solution.evaluation
            if (lam == 0.0 or not self._all_penalised) and runs_away(solution, penalty):
                solution = replace(solution, converged=False)
            if self.feasible == "all_rows":
                from methods.ordinal.barrier import ordered_everywhere

                solution = ordered_everywhere(self.objective, self._x, solution, penalty)
            found.append(solution)
        bad = [lam for lam, s in zip(lambdas, found, strict=True) if not s.converged]
        if bad:
            warnings.warn(
                f"{len(bad)} of {len(lambdas)} fits stopped before the optimality conditions held to "
                f"{self.tol:g}, the first at lam={bad[0]:.3g} (separated classes have no finite fit; "
                "a larger lam has)",
                NotConverged,
                stacklevel=2,
            )
        theta = np.array([s.evaluation.theta for s in found])
        intercepts, coefs = self.original_scale(theta)
        return Path(
            np.asarray(lambdas, float),
            intercepts,
            coefs,
            np.array([s.objective for s in found]),
            np.array([s.kkt for s in found]),
            np.array([s.steps for s in found]),
            theta,
            np.array([s.converged for s in found]),
        )

    def original_scale(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intercepts [..., q] and B [..., q, p] for x as it came, from theta [..., m].

        Intercept k is corrected with the cumulative B_k (the published code takes psi_k: defect D1).
        """
        q, p = self.objective.q, self.objective.p
        psi = theta[..., q:].reshape(*theta.shape[:-1], q, p)
        coef = np.cumsum(psi, axis=-2) / self.scale
        return theta[..., :q] - (coef * self.mean).sum(-1), coef


def standardisation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column means and population standard deviations; 1 for a constant column, which then stays zero."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    constant = scale <= 1e-12 * np.maximum(1.0, np.abs(mean))
    return mean, np.where(constant, 1.0, scale)

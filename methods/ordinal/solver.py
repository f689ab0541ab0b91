"""PRESTO's exact convex problem by proximal Newton steps, along a path of penalties.

    min over a, psi:  -(1/n) sum_i log P(y_i | x_i) + lam sum_j w_j (l1_ratio |psi_j| + (1 - l1_ratio)/2 psi_j^2)

(arXiv 2305.18700, sections 2 and 3, in the form of the published solver: intercepts free, w_j = 1, the first
block B_1 = psi_1 included), solved to its optimality conditions by `newton.minimise`.

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
from typing import Literal

import numpy as np

from methods.ordinal.barrier import ordered_everywhere
from methods.ordinal.likelihood import linear_predictors
from methods.ordinal.newton import Penalty, Solution, minimise, runs_away
from methods.ordinal.objective import Evaluation, Objective

Feasible = Literal["observed", "all_rows"]
SMALLEST_L1_RATIO = 0.01
"""For lam_max under (nearly) pure ridge, as in the published solver: no finite lam gives zero there."""


class NotConverged(UserWarning):
    """A fit stopped before its optimality conditions held; the likelihood may have no maximum."""


def weights(q: int, p: int, penalize_first: bool = True) -> np.ndarray:
    """1 for penalised coordinates of theta [q + q p], 0 for free ones."""
    weight = np.ones(q + q * p)
    weight[: q if penalize_first else q + p] = 0.0
    return weight


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

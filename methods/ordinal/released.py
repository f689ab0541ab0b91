"""What the published PRESTO code does to the numbers (its revision 9ff94a4, inside a copy of ordinalNet).

Five defects were found in it; `code="published_code"` runs with all that touch numbers:

D1  Intercept k goes back to the original scale with psi_k . mean / sd instead of the cumulative B_k . mean
    / sd: wrong for k >= 2 unless columns have mean zero.
D2  The cross-validation predicts with psi_k in place of B_k, and so tunes lam on other probabilities.
D3  The calibration error holds sorted bins against unsorted predictions (`metrics.osce_released`).
D4  The documented entry point prints through an undefined name and stops with an error, and does not pass its
    elastic-net parameter to the tuning.  (Nothing to compute; documented only.)
D5  The likelihood is -inf as soon as any class has negative probability on any row, observed or not; the line search
    gives up after ten halvings, the fit counts as converged, and the smaller lambdas copy it.

The path here follows that algorithm: Fisher scoring with probabilities floored at 1e-8, at most ten halvings,
a stop when the objective moves less than 1e-8 relatively.  Its quadratic subproblem is solved exactly where
theirs runs coordinate descent to a tolerance.  Agrees with their paths to about 1e-4 (tests/ordinal).
"""

from __future__ import annotations

import numpy as np

from methods.ordinal.crossvalidation import Choice, largest_at_minimum
from methods.ordinal.likelihood import linear_predictors, raw_probabilities
from methods.ordinal.metrics import brier_classes
from methods.ordinal.newton import Penalty, kkt_violation
from methods.ordinal.objective import by_psi, by_psi_twice
from methods.ordinal.solver import SMALLEST_L1_RATIO, Path, standardisation, weights
from methods.ordinal.subproblem import solve

FLOOR = 1e-8
STOP = 1e-8
HALVINGS = 10
MOST_STEPS = 100
LARGEST_INTERCEPT = 100.0


class ReleasedProblem:
    """x float [n, p], y int [n] in 0..classes-1; a class may be missing, as in their folds."""

    def __init__(self, x: np.ndarray, y: np.ndarray, classes: int, l1_ratio: float = 1.0):
        self.n, self.p = x.shape
        self.q, self.l1_ratio = classes - 1, l1_ratio
        self.mean, self.scale = standardisation(x)
        self._x = np.vstack([np.ones(self.n), ((x - self.mean) / self.scale).T])
        self._rows, self._y = np.arange(self.n), y
        self._truth = np.eye(classes)[:, y]
        self.weight = weights(self.q, self.p)
        share = np.cumsum(np.bincount(y, minlength=classes))[:-1] / self.n
        with np.errstate(divide="ignore"):
            start = np.log(share) - np.log1p(-share)
        self.null = np.zeros(self.q * (1 + self.p))
        self.null[: self.q] = np.clip(start, -LARGEST_INTERCEPT, LARGEST_INTERCEPT)
        pull = np.abs(self._score_and_information(self.null)[0]) * self.weight
        self.lam_max = float(pull.max() / max(l1_ratio, SMALLEST_L1_RATIO))

    def lambdas(self, count: int, ratio: float) -> np.ndarray:
        """[count] penalties, log-spaced from lam_max down to lam_max * ratio."""
        return self.lam_max * np.geomspace(1.0, ratio, count)

    def path(self, lambdas: np.ndarray) -> Path:
        """Their fits: intercepts with defect D1, a path that may jam (D5); the slopes B are right."""
        theta, value = self.null, self._value(self.null)
        thetas, objectives, violations, steps = [], [], [], []
        copied = False
        for lam in lambdas:
            penalty = self._penalty(lam)
            taken, before = 0, value
            if not copied:
                theta, value, taken = self._fit(theta, value, penalty)
                # Their path also ends where the likelihood no longer moves; the null fit is exempt.
                stalled = abs(before - value) < STOP * abs(before)
                copied = bool(thetas) and stalled and bool(theta[self.q :].any())
            gradient = self._score_and_information(theta)[0]
            thetas.append(theta)
            objectives.append(value + penalty.value(theta))
            violations.append(kkt_violation(gradient, theta, penalty))
            steps.append(taken)
        found = np.array(thetas)
        intercepts, coefs = self.original_scale(found)
        kkt = np.array(violations)
        return Path(
            np.asarray(lambdas, float),
            intercepts,
            coefs,
            np.array(objectives),
            kkt,
            np.array(steps),
            found,
            kkt < 1e-4,
        )

    def original_scale(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Intercepts [..., q] corrected with psi_k alone (D1), and B [..., q, p]."""
        psi = theta[..., self.q :].reshape(*theta.shape[:-1], self.q, self.p) / self.scale
        return theta[..., : self.q] - (psi * self.mean).sum(-1), np.cumsum(psi, axis=-2)

    def _penalty(self, lam: float) -> Penalty:
        return Penalty(lam * self.l1_ratio * self.weight, lam * (1.0 - self.l1_ratio) * self.weight)

    def _cumulative(self, theta: np.ndarray) -> np.ndarray:
        """sigma(eta) [q, n]."""
        slopes = np.cumsum(theta[self.q :].reshape(self.q, self.p), axis=0)
        eta = np.column_stack([theta[: self.q], slopes]) @ self._x
        with np.errstate(over="ignore"):
            return 1.0 / (1.0 + np.exp(-eta))

    def _value(self, theta: np.ndarray) -> float:
        """Mean -log P of the observed classes; +inf where any class of any row is negative (D5)."""
        probabilities = np.diff(self._cumulative(theta), axis=0, prepend=0.0, append=1.0)
        if probabilities.min() < 0.0:
            return np.inf
        with np.errstate(divide="ignore"):
            return float(-np.log(probabilities[self._y, self._rows]).mean())

    def _score_and_information(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient [m] of the mean -log P and Fisher information [m, m], with floored probabilities."""
        q, m = self.q, self.p + 1
        cumulative = self._cumulative(theta)
        slope = cumulative * (1.0 - cumulative)
        probabilities = np.diff(cumulative, axis=0, prepend=0.0, append=1.0)
        inverse = 1.0 / np.maximum(probabilities, FLOOR)
        residual = self._truth * inverse
        gradient = (slope * (residual[1:] - residual[:-1])) @ self._x.T
        information = np.zeros((q, q, m, m))
        for k in range(q):
            weight = slope[k] ** 2 * (inverse[k] + inverse[k + 1])
            information[k, k] = (self._x * weight) @ self._x.T
            if k:
                cross = (self._x * (slope[k] * slope[k - 1] * inverse[k])) @ self._x.T
                information[k, k - 1] = information[k - 1, k] = -cross
        return by_psi(gradient) / self.n, by_psi_twice(information) / self.n

    def _fit(
        self, theta: np.ndarray, value: float, penalty: Penalty
    ) -> tuple[np.ndarray, float, int]:
        objective = value + penalty.value(theta)
        for step in range(1, MOST_STEPS + 1):
            gradient, information = self._score_and_information(theta)
            diagonal = np.arange(len(theta))
            information[diagonal, diagonal] *= 1.0 + 1e-12
            linear = gradient - information @ theta
            information[diagonal, diagonal] += penalty.l2
            goal = solve(information, linear, penalty.l1, theta)
            before = objective
            for halving in range(HALVINGS + 1):
                trial = theta + 0.5**halving * (goal - theta)
                reached = self._value(trial)
                if reached + penalty.value(trial) < objective:
                    theta, value = trial, reached
                    objective = reached + penalty.value(trial)
                    break
            if abs(before - objective) < STOP * abs(before):
                return theta, value, step
        return theta, value, MOST_STEPS


def unstratified_folds(n: int, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of each row, int [n], by one shuffle of all rows."""
    assigned = np.empty(n, dtype=np.int64)
    assigned[rng.permutation(n)] = np.arange(n) % folds
    return assigned


def choose_released(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    lambdas: np.ndarray,
    fold_of: np.ndarray,
    l1_ratio: float = 1.0,
) -> Choice:
    """Their cross-validation: psi_k for B_k (D2), Brier of differences that may be negative."""
    folds = int(fold_of.max()) + 1
    scores = np.empty((folds, len(lambdas)))
    for fold in range(folds):
        held = fold_of == fold
        path = ReleasedProblem(x[~held], y[~held], classes, l1_ratio).path(lambdas)
        psi = np.diff(path.coefs, axis=1, prepend=0.0)
        probabilities = raw_probabilities(linear_predictors(x[held], path.intercepts, psi))
        scores[fold] = brier_classes(probabilities, y[held])
    mean = scores.mean(axis=0)
    return Choice(np.asarray(lambdas), scores, mean, largest_at_minimum(mean))

"""Choosing lam by cross-validation: multi-class Brier score, the largest lam that attains the minimum.

Section 5 of the paper's published experiments: lambdas of the full data, k folds, refit on all rows.
Folds are stratified here: an unstratified one may lose the rare class, whose intercept then has no finite fit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from methods.ordinal.likelihood import class_probabilities
from methods.ordinal.metrics import brier_classes
from methods.ordinal.solver import Problem

FOLD_TOLERANCE = 1e-6
"""Optimality of the folds' fits: their Brier scores then hold to about 1e-7."""


@dataclass(frozen=True)
class Choice:
    """lambdas [L], the folds' Brier scores [folds, L], their mean over rows [L] and the chosen index."""

    lambdas: np.ndarray
    fold_scores: np.ndarray
    scores: np.ndarray
    index: int

    @property
    def lam(self) -> float:
        """The chosen penalty."""
        return float(self.lambdas[self.index])


def stratified_folds(y: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of each row, int [n] in 0..folds-1; each class is spread as evenly as its size allows.

    Raises ValueError where a class has a single row: some training part would miss it.
    """
    y = np.asarray(y)
    assigned = np.empty(len(y), dtype=np.int64)
    dealt = 0
    for c in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == c))
        if len(rows) < 2:
            raise ValueError(f"class {c} has {len(rows)} row; cross-validation needs two of each")
        # Dealing goes on where the class before stopped, so folds differ by one row at most.
        assigned[rows] = (dealt + np.arange(len(rows))) % folds
        dealt += len(rows)
    return assigned


def largest_at_minimum(scores: np.ndarray) -> int:
    """Index of the first minimum; lambdas fall, so the first is the largest."""
    return int(np.argmin(scores))


def choose(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    lambdas: np.ndarray,
    fold_of: np.ndarray,
    **options: object,
) -> Choice:
    """Score falling `lambdas` [L] on held-out folds; `options` are those of `solver.Problem`."""
    tol = max(FOLD_TOLERANCE, float(options.pop("tol", 0.0)))
    folds = int(fold_of.max()) + 1
    scores = np.empty((folds, len(lambdas)))
    for fold in range(folds):
        held = fold_of == fold
        path = Problem(x[~held], y[~held], classes, tol=tol, **options).path(lambdas)
        probabilities = class_probabilities(path.predictors(x[held]))
        scores[fold] = brier_classes(probabilities, y[held])
    rows = np.bincount(fold_of, minlength=folds)
    mean = rows @ scores / rows.sum()
    return Choice(np.asarray(lambdas), scores, mean, largest_at_minimum(mean))

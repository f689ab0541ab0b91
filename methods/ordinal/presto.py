"""PRESTO with its penalty chosen by cross-validation (arXiv 2305.18700, sections 3 and 4).

Fidelity
--------
Paper: the model, the lasso on adjacent differences of slopes, five folds, multi-class Brier score, the largest
lam that attains its minimum, a path of 20 (real data 100) penalties down to .01 (1e-4) of the largest one.
Chosen: stratified folds; an exact solver; class probabilities that are made valid where curves cross.
Avoided: the five defects of the published code, all listed in `released` and computed by
`code="published_code"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from methods.ordinal.crossvalidation import choose, stratified_folds
from methods.ordinal.experiment import Fitted, run
from methods.ordinal.likelihood import crossing_rows, linear_predictors, rare_probability
from methods.ordinal.released import ReleasedProblem, choose_released, unstratified_folds
from methods.ordinal.solver import Problem

if TYPE_CHECKING:
    from methods.models.estimates import Estimates
    from methods.ordinal.params import Presto
    from methods.ordinal.replicates import Replicate
    from methods.run.context import Context


def apply(base: None, data: dict, params: Presto, context: Context) -> Estimates:
    """Fit and score PRESTO on every replicate of the setting."""
    fit = _published if params.code == "published_code" else _fit
    return run(lambda replicate, rng: fit(replicate, params, rng), data, params, context)


def _fit(replicate: Replicate, params: Presto, rng: np.random.Generator) -> Fitted:
    x, y, classes = replicate.x, replicate.y, replicate.classes
    options = {
        "l1_ratio": params.l1_ratio,
        "penalize_first": params.penalize_first,
        "feasible": params.feasible,
    }
    problem = Problem(x, y, classes, **options)
    lambdas = problem.lambdas(*params.path_shape())
    folds = stratified_folds(y, params.folds, rng)
    choice = choose(x, y, classes, lambdas, folds, **options)
    # The problem is convex: a warm start from above ends where a cold one does, only sooner.
    path = problem.path(lambdas[: choice.index + 1])
    return _fitted(x, path.intercepts[-1], path.coefs[-1], choice.lam / lambdas[0])


def _published(replicate: Replicate, params: Presto, rng: np.random.Generator) -> Fitted:
    x, y, classes = replicate.x, replicate.y, replicate.classes
    problem = ReleasedProblem(x, y, classes, params.l1_ratio)
    lambdas = problem.lambdas(*params.path_shape())
    folds = unstratified_folds(len(y), params.folds, rng)
    choice = choose_released(x, y, classes, lambdas, folds, params.l1_ratio)
    path = problem.path(np.array([choice.lam]))
    return _fitted(x, path.intercepts[-1], path.coefs[-1], choice.lam / lambdas[0])


def _fitted(x: np.ndarray, intercept: np.ndarray, coef: np.ndarray, share: float) -> Fitted:
    def rare(rows: np.ndarray) -> np.ndarray:
        return rare_probability(linear_predictors(rows, intercept, coef))

    crossing = crossing_rows(linear_predictors(x, intercept, coef))
    notes = {"lam_over_max": float(share), "crossing_rows": crossing}
    return Fitted(rare, intercept, coef, notes)

"""The proportional odds model by maximum likelihood: PRESTO's model with one slope vector, unpenalised.

It is the sub-model psi_k = 0 for k >= 2, fitted by the same Newton steps.  MASS::polr and statsmodels'
OrderedModel write P(y <= k) = sigma(zeta_k - x.beta): their beta is minus our slope.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from methods.ordinal.experiment import Fitted, run
from methods.ordinal.likelihood import linear_predictors, rare_probability
from methods.ordinal.solver import NotConverged, Problem

if TYPE_CHECKING:
    from methods.models.estimates import Estimates
    from methods.ordinal.params import ProportionalOdds
    from methods.ordinal.replicates import Replicate
    from methods.run.context import Context


def fit_proportional_odds(
    x: np.ndarray, y: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Intercepts [q] and the slope [p] that every class shares; warns `NotConverged` if separated."""
    problem = Problem(x, y, classes)
    solution = problem.parallel()
    if not solution.converged:
        warnings.warn(
            f"the {classes}-class fit stopped with a gradient of {solution.kkt:.2g}: its classes may "
            "be separated, so that no finite fit exists",
            NotConverged,
            stacklevel=2,
        )
    intercept, coef = problem.original_scale(solution.evaluation.theta)
    return intercept, coef[0]


def apply(base: None, data: dict, params: ProportionalOdds, context: Context) -> Estimates:
    """Fit and score the model on every replicate of the setting."""
    return run(_fit, data, params, context)


def _fit(replicate: Replicate, rng: np.random.Generator) -> Fitted:
    intercept, slope = fit_proportional_odds(replicate.x, replicate.y, replicate.classes)

    def rare(rows: np.ndarray) -> np.ndarray:
        return rare_probability(linear_predictors(rows, intercept, slope[None, :]))

    return Fitted(rare, intercept, slope[None, :])

"""Logistic regression of the rare class against all others, by maximum likelihood.

It is the proportional odds model of two classes, fitted by the same Newton steps (tests/ordinal holds it against
scikit-learn and R's glm).  With few events the classes may be separable, and the likelihood then has no
maximum: as the usual tools do, the fit stops with large coefficients; such replicates are counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from methods.ordinal.experiment import Fitted, run
from methods.ordinal.likelihood import linear_predictors, rare_probability
from methods.ordinal.proportional_odds import fit_proportional_odds

if TYPE_CHECKING:
    from methods.models.estimates import Estimates
    from methods.ordinal.params import RareLogit
    from methods.ordinal.replicates import Replicate
    from methods.run.context import Context


def apply(base: None, data: dict, params: RareLogit, context: Context) -> Estimates:
    """Fit and score the regression on every replicate of the setting."""
    return run(_fit, data, params, context)


def _fit(replicate: Replicate, rng: np.random.Generator) -> Fitted:
    event = (replicate.y == replicate.classes - 1).astype(np.int64)
    intercept, slope = fit_proportional_odds(replicate.x, event, 2)

    def rare(rows: np.ndarray) -> np.ndarray:
        return rare_probability(linear_predictors(rows, intercept, slope[None, :]))

    return Fitted(rare, intercept, slope[None, :])

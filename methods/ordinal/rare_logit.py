"""Logistic regression of the rare class against all others, by maximum likelihood (scikit-learn).

With few events the classes may be separable, and the likelihood then has no maximum.  As the usual tools do,
the fit stops after a fixed number of steps with large coefficients; such replicates are counted.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from methods.ordinal.experiment import Fitted, run
from methods.ordinal.solver import NotConverged, standardisation

if TYPE_CHECKING:
    from methods.models.estimates import Estimates
    from methods.ordinal.params import RareLogit
    from methods.ordinal.replicates import Replicate
    from methods.run.context import Context

STEPS = 100


def apply(base: None, data: dict, params: RareLogit, context: Context) -> Estimates:
    """Fit and score the regression on every replicate of the setting."""
    return run(_fit, data, params, context)


def _fit(replicate: Replicate, rng: np.random.Generator) -> Fitted:
    # Standardised only for the optimiser's sake: without a penalty the fit is the same.
    mean, scale = standardisation(replicate.x)
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", max_iter=STEPS, tol=1e-6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit((replicate.x - mean) / scale, replicate.y == replicate.classes - 1)
    if any(issubclass(w.category, ConvergenceWarning) for w in caught):
        warnings.warn("the logistic fit did not converge", NotConverged, stacklevel=2)

    def rare(rows: np.ndarray) -> np.ndarray:
        return model.predict_proba((rows - mean) / scale)[:, 1]

    coef = model.coef_ / scale
    return Fitted(rare, model.intercept_ - coef @ np.broadcast_to(mean, coef.shape[1:]), coef)

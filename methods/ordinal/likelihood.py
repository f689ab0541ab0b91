"""The cumulative logit likelihood of one row, exactly, with gradient and Hessian.

Classes are 0..K-1 and q = K-1.  With eta_k = a_k + x.B_k, P(y <= k | x) = sigma(eta_k)
(PRESTO, arXiv 2305.18700, section 2; note the plus sign).  A row of class c involves two of the etas
only: the *upper* u = eta_c (absent for the last class) and the *lower* v = eta_{c-1} (absent for the
first).  Since sigma(u) - sigma(v) = sigma(u) sigma(-v) (1 - e^{-(u-v)}),

    -log P = softplus(-u) + softplus(v) - log(1 - e^{-t}),      t = u - v > 0,

which is convex in (u, v), loses no digits for rare classes, and falls apart into its first or second
term for the two outer classes.  With r = 1 / (e^t - 1) the last term is log(1 + r), and

    d/du = -sigma(-u) - r        d2/du2 = sigma(u) sigma(-u) + r (1 + r)
    d/dv =  sigma(v)  + r        d2/dv2 = sigma(v) sigma(-v) + r (1 + r)     d2/dudv = -r (1 + r).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit


def softplus(z: np.ndarray) -> np.ndarray:
    """log(1 + e^z) without overflow."""
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


def negative_log_probability(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """-log(sigma(u) - sigma(v)) for arrays of one shape; u may be +inf (last class), v -inf (first).

    +inf where u <= v: the row lies outside the domain.
    """
    u, v = np.broadcast_arrays(np.asarray(u, float), np.asarray(v, float))
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        gap = np.log1p(1.0 / np.expm1(u - v))
    return np.where(u > v, softplus(-u) + softplus(v) + gap, np.inf)


def row_derivatives(
    u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(d/du, d/dv, d2/du2, d2/dv2, d2/dudv) of `negative_log_probability`, each of the inputs' shape."""
    with np.errstate(over="ignore"):
        r = 1.0 / np.expm1(u - v)
    curvature = r * (1.0 + r)
    return (
        -expit(-u) - r,
        expit(v) + r,
        expit(u) * expit(-u) + curvature,
        expit(v) * expit(-v) + curvature,
        -curvature,
    )


def linear_predictors(x: np.ndarray, intercept: np.ndarray, coef: np.ndarray) -> np.ndarray:
    """eta [..., n, q] from x [n, p], intercept [..., q] and B [..., q, p]."""
    return x @ np.swapaxes(coef, -1, -2) + intercept[..., None, :]


def raw_probabilities(eta: np.ndarray) -> np.ndarray:
    """Class probabilities [..., K] as differences of cumulative ones; negative where curves cross."""
    # Differences of the smaller tail keep the digits of a rare first or last class.
    lower = np.concatenate([expit(eta), np.ones((*eta.shape[:-1], 1))], axis=-1)
    upper = np.concatenate([np.ones((*eta.shape[:-1], 1)), expit(-eta)], axis=-1)
    by_lower = np.diff(lower, axis=-1, prepend=0.0)
    by_upper = -np.diff(upper, axis=-1, append=0.0)
    return np.where(upper < 0.5, by_upper, by_lower)


def class_probabilities(eta: np.ndarray) -> np.ndarray:
    """Class probabilities [..., K] that are non-negative and sum to one.

    Where cumulative curves cross (possible away from the training rows), the negative differences are
    set to zero and the rest is scaled to sum to one.
    """
    probabilities = np.maximum(raw_probabilities(eta), 0.0)
    return probabilities / probabilities.sum(axis=-1, keepdims=True)


def rare_probability(eta: np.ndarray) -> np.ndarray:
    """P(y = K-1 | x) = 1 - sigma(eta_{K-2}), [...]: valid whether curves cross or not."""
    return expit(-eta[..., -1])


def crossing_rows(eta: np.ndarray) -> int:
    """How many rows of eta [n, q] have cumulative curves out of order."""
    if eta.shape[-1] < 2:
        return 0
    return int((np.diff(eta, axis=-1) <= 0.0).any(axis=-1).sum())

"""The synthetic designs of the paper's sections 4.1 and 4.2: four ordered classes, the last one rare.

x ~ U(-1, 1)^10, P(y <= k | x) = sigma(a_k + x.B_k).  Sparse: B_1j = 1/2 Bern(q) and increments
+-1/2 with probability q; dense: B_1 and all increments ~ U(-1/2, 1/2) (the published function has an
amplitude argument that it never reads; 1/2 is what it uses).  Slopes are drawn again, with x, until cumulative
curves are in order on every row, and outcomes until every class occurs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from methods.ordinal.likelihood import crossing_rows, linear_predictors, raw_probabilities

COLUMNS = 10
SLOPE_TRIES, OUTCOME_TRIES = 100, 10


@dataclass(frozen=True)
class Design:
    """density: q of the sparse designs, None for the dense ones; intercepts a_0..a_{K-2}."""

    density: float | None
    intercepts: tuple[float, ...]


DESIGNS: dict[str, Design] = {
    "sparse-third-5": Design(1 / 3, (0.0, 3.0, 5.0)),
    "sparse-third-5.5": Design(1 / 3, (0.0, 3.5, 5.5)),
    "sparse-third-6": Design(1 / 3, (0.0, 4.0, 6.0)),
    "sparse-half-5": Design(1 / 2, (0.0, 3.0, 5.0)),
    "sparse-half-5.5": Design(1 / 2, (0.0, 3.5, 5.5)),
    "sparse-half-6": Design(1 / 2, (0.0, 4.0, 6.0)),
    "dense-4.5": Design(None, (0.0, 2.5, 4.5)),
    "dense-5": Design(None, (0.0, 3.0, 5.0)),
    "dense-5.5": Design(None, (0.0, 3.5, 5.5)),
    "dense-6": Design(None, (0.0, 4.0, 6.0)),
}
"""The paper's ten settings; names end in the last intercept, on which the rarity depends."""


@dataclass(frozen=True)
class Draw:
    """x [n, p]; y int [n] in 0..K-1; probabilities [n, K], the truth; coef B [q, p]."""

    x: np.ndarray
    y: np.ndarray
    probabilities: np.ndarray
    coef: np.ndarray


def draw(design: Design, rows: int, rng: np.random.Generator) -> Draw:
    """One replicate.  Raises ValueError where no valid draw is found in the paper's number of tries."""
    intercepts = np.array(design.intercepts)
    for _ in range(SLOPE_TRIES):
        x = rng.uniform(-1.0, 1.0, (rows, COLUMNS))
        coef = slopes(design, rng)
        eta = linear_predictors(x, intercepts, coef)
        if not crossing_rows(eta):
            break
    else:
        raise ValueError(f"no slopes with ordered curves in {SLOPE_TRIES} tries of {design}")
    probabilities = raw_probabilities(eta)
    for _ in range(OUTCOME_TRIES):
        y = outcomes(probabilities, rng)
        # Two of each class, so that cross-validation can leave one out.
        if np.bincount(y, minlength=len(intercepts) + 1).min() >= 2:
            return Draw(x, y, probabilities, coef)
    raise ValueError(f"a class stayed empty in {OUTCOME_TRIES} draws of {rows} rows from {design}")


def slopes(design: Design, rng: np.random.Generator) -> np.ndarray:
    """B [q, p]: the first row and the running sums of the increments."""
    shape = (len(design.intercepts), COLUMNS)
    if design.density is None:
        psi = rng.uniform(-0.5, 0.5, shape)
    else:
        psi = 0.5 * (rng.random(shape) < design.density)
        psi[1:] *= rng.choice([-1.0, 1.0], (shape[0] - 1, COLUMNS))
    return np.cumsum(psi, axis=0)


def outcomes(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """y int [n], drawn from probabilities [n, K]."""
    below = np.cumsum(probabilities[:, :-1], axis=1)
    return (rng.random((len(below), 1)) > below).sum(axis=1)

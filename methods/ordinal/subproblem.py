"""The lasso quadratic  min  c.w + w'Qw/2 + sum_j l_j |w_j|  by pivoting on its active set.

Q is small (K-1 intercepts and (K-1)p coefficients) and positive definite, and the solver of the outer
problem knows nearly which coordinates are active.  Guess them with their signs, solve the linear
system, drop those that came out with the wrong sign, take in those whose gradient exceeds l_j, repeat.
All at once converges in two or three solves; where the number of violations stops falling, one
coordinate is pivoted at a time (largest index first), which ends after finitely many steps for every positive
definite Q (Judice and Pires 1994, for linear complementarity problems with bounds).
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

PATIENCE = 3
"""Block steps without fewer violations before single pivots are taken."""
LONGEST = 5000


def solve(
    quadratic: np.ndarray, linear: np.ndarray, penalty: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """The minimiser [m].

    quadratic: Q [m, m], positive definite; linear: c [m]; penalty: l [m] >= 0 (0: not penalised);
    start: [m], of which the signs are the first guess.  Raises FloatingPointError if Q is not positive
    definite to working precision, or for want of convergence.
    """
    penalised = penalty > 0.0
    signs = np.sign(start)
    signs[~penalised] = 0.0
    active = (signs != 0.0) | ~penalised
    # What counts as a violation must lie above the rounding of Q w + c.
    slack = 1e-13 * (np.abs(linear).max(initial=0.0) + penalty.max(initial=0.0))
    fewest, patience = len(linear) + 1, PATIENCE
    for _ in range(LONGEST):
        solution = np.zeros_like(linear)
        index = np.flatnonzero(active)
        if index.size:
            pulled = linear[index] + penalty[index] * signs[index]
            _, values, info = lapack.dposv(quadratic[np.ix_(index, index)], -pulled)
            if info:
                raise FloatingPointError("the quadratic model is not positive definite")
            solution[index] = values
            gradient = quadratic[:, index] @ values + linear
        else:
            gradient = linear
        leaving = active & penalised & (solution * signs < 0.0)
        entering = ~active & (np.abs(gradient) > penalty + slack)
        violated = np.flatnonzero(leaving | entering)
        if not violated.size:
            return solution
        if violated.size < fewest:
            fewest, patience = violated.size, PATIENCE
        elif patience:
            patience -= 1
        else:
            violated = violated[-1:]
        flipped = active[violated]
        signs[violated] = np.where(flipped, 0.0, -np.sign(gradient[violated]))
        active[violated] = ~flipped
    raise FloatingPointError("the active set of the quadratic model did not settle")

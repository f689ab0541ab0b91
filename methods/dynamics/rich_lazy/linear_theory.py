"""The two-layer linear network whose kernel alignment has a closed form (arXiv 2310.08513, section 2.3).

f(x) = w_2' W_1 x on whitened inputs x in R^d, target beta' x with ||beta|| = 1, w_2(0) = 0, small W_1(0).  The
tangent kernel is K(x, x') = x' M x with M = W_1' W_1 + ||w_2||^2 I.  At the start M_0 = W_1(0)' W_1(0); gradient flow
from small weights keeps the layers balanced and ends at M_f = I + beta beta', so

    KA = (Tr M_0 + beta' M_0 beta) / (||M_0||_F sqrt(d + 3)),
    E over beta uniform on the sphere = (1 + 1/d) Tr M_0 / (||M_0||_F sqrt(d + 3)).

r equal singular values give (1 + 1/d) sqrt(r / (d + 3)); rank one aligned with the task, W_1(0) ~ u beta', gives
2 / sqrt(d + 3), which is lazier than random rank one.  Stacked over M networks, float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from methods.study.errors import RetrofitError

STEP = 0.1
"""Of the Runge-Kutta scheme; the flow's rates are of order one."""
LONGEST = 2000


@dataclass(frozen=True)
class Trained:
    """w1 [M, h, d], w2 [M, h]; error [M], ||beta - W_1' w_2||; steps that it took."""

    w1: np.ndarray
    w2: np.ndarray
    error: np.ndarray
    steps: int


def equal_spectrum(
    replicates: int, hidden: int, inputs: int, rank: int, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """W_1(0) [replicates, hidden, inputs] with `rank` equal singular values, random spaces, ||W_1||_F = scale."""
    most = min(hidden, inputs)
    if not 1 <= rank <= most:
        raise RetrofitError(
            f"rank {rank}: {inputs} inputs and {hidden} hidden units allow 1 to {most}"
        )
    left = np.linalg.qr(rng.standard_normal((replicates, hidden, rank)))[0]
    right = np.linalg.qr(rng.standard_normal((replicates, inputs, rank)))[0]
    return scale / np.sqrt(rank) * left @ right.mT


def sphere(replicates: int, inputs: int, rng: np.random.Generator) -> np.ndarray:
    """beta [replicates, inputs], uniform on the unit sphere."""
    beta = rng.standard_normal((replicates, inputs))
    return beta / np.linalg.norm(beta, axis=1, keepdims=True)


def task_aligned(
    beta: np.ndarray, hidden: int, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """W_1(0) = scale u beta' [M, hidden, d] of rank one, u random of unit length."""
    return scale * sphere(len(beta), hidden, rng)[:, :, None] * beta[:, None, :]


def flow(w1: np.ndarray, w2: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minus the gradient of ||beta - W_1' w_2||^2 / 2."""
    error = beta - np.einsum("mhd,mh->md", w1, w2)
    return w2[:, :, None] * error[:, None, :], np.einsum("mhd,md->mh", w1, error)


def train(w1: np.ndarray, beta: np.ndarray, tolerance: float = 1e-9) -> Trained:
    """Gradient flow from w_2 = 0 (fourth-order Runge-Kutta) until every error is below `tolerance`.

    Raises RetrofitError where it is not after `LONGEST` steps: a start orthogonal to the task never learns it.
    """
    w2 = np.zeros(w1.shape[:2])
    for step in range(LONGEST):
        error = np.linalg.norm(beta - np.einsum("mhd,mh->md", w1, w2), axis=1)
        if error.max() < tolerance:
            return Trained(w1, w2, error, step)
        a1, a2 = flow(w1, w2, beta)
        b1, b2 = flow(w1 + STEP / 2 * a1, w2 + STEP / 2 * a2, beta)
        c1, c2 = flow(w1 + STEP / 2 * b1, w2 + STEP / 2 * b2, beta)
        d1, d2 = flow(w1 + STEP * c1, w2 + STEP * c2, beta)
        w1 = w1 + STEP / 6 * (a1 + 2 * b1 + 2 * c1 + d1)
        w2 = w2 + STEP / 6 * (a2 + 2 * b2 + 2 * c2 + d2)
    raise RetrofitError(
        f"the linear network {int(error.argmax())} is still {error.max():.2g} from its target after {LONGEST} steps; "
        "give a larger scale"
    )


def kernel_matrix(w1: np.ndarray, w2: np.ndarray) -> np.ndarray:
    """M = W_1' W_1 + ||w_2||^2 I, [M, d, d]."""
    return w1.mT @ w1 + (w2**2).sum(-1)[:, None, None] * np.eye(w1.shape[-1])


def alignment(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """<A, B>_F / (||A||_F ||B||_F) over the last two dimensions."""
    product = (before * after).sum((-2, -1))
    return product / (np.linalg.norm(before, axis=(-2, -1)) * np.linalg.norm(after, axis=(-2, -1)))


def predicted(m0: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """The closed form for given beta [M, d] and M_0 [M, d, d]."""
    d = beta.shape[-1]
    along = np.einsum("md,mde,me->m", beta, m0, beta)
    trace = np.trace(m0, axis1=-2, axis2=-1)
    return (trace + along) / (np.linalg.norm(m0, axis=(-2, -1)) * np.sqrt(d + 3.0))


def expected(m0: np.ndarray) -> np.ndarray:
    """The closed form's mean over beta."""
    d = m0.shape[-1]
    trace = np.trace(m0, axis1=-2, axis2=-1)
    return (1.0 + 1.0 / d) * trace / (np.linalg.norm(m0, axis=(-2, -1)) * np.sqrt(d + 3.0))

"""Initial recurrent weights of a given rank and size (arXiv 2310.08513, as its published code has it).

    W_gauss = g randn(N, N) / sqrt(N)
    W_r     = U[:, :r] diag(S[:r]) V[:r]  times  ||W_gauss||_F / ||U[:, :r] diag(S[:r]) V[:r]||_F

Matrices are stacked, float64 [..., N, N]; row i, column j is the weight onto unit i from unit j.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from methods.study.errors import RetrofitError

Norm = Literal["fro", "spectral"]


def gaussian(size: int, gain: float, rng: np.random.Generator) -> np.ndarray:
    """W_gauss [N, N]; its spectral radius is about `gain`."""
    return gain / np.sqrt(size) * rng.standard_normal((size, size))


def truncated(w: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation of that rank to w [..., N, N], blown up to the Frobenius norm of w.

    Raises RetrofitError for a rank outside 1..N.
    """
    size = w.shape[-1]
    if not 1 <= rank <= size:
        raise RetrofitError(f"rank {rank}: a network of {size} units has ranks from 1 to {size}")
    u, s, v = np.linalg.svd(finite(w))
    low = (u[..., :, :rank] * s[..., None, :rank]) @ v[..., :rank, :]
    return matched(low, w, "fro")


def frobenius(w: np.ndarray) -> np.ndarray:
    """||W||_F [...]."""
    return np.linalg.norm(w, axis=(-2, -1))


def spectral_radius(w: np.ndarray) -> np.ndarray:
    """The largest modulus of an eigenvalue [...]; below 1 a linear network forgets its state."""
    return np.abs(np.linalg.eigvals(w)).max(axis=-1)


SIZES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "fro": frobenius,
    "spectral": spectral_radius,
}


def matched(w: np.ndarray, reference: np.ndarray, normalize: Norm) -> np.ndarray:
    """w [..., N, N] times the number that gives it the Frobenius norm, or spectral radius, of `reference`.

    Raises RetrofitError where w has none to be scaled: zero, nilpotent or not finite.
    """
    size = SIZES[normalize]
    own = size(finite(w))
    if not (own > 1e-12 * frobenius(reference)).all():
        what = {"fro": "Frobenius norm", "spectral": "spectral radius"}[normalize]
        raise RetrofitError(f"normalize: {normalize}: the initial weights have {what} 0")
    return w * (size(reference) / own)[..., None, None]


def finite(w: np.ndarray) -> np.ndarray:
    """w itself; RetrofitError where it holds a value that is not finite."""
    if not np.isfinite(w).all():
        where = tuple(int(index) for index in np.argwhere(~np.isfinite(w))[0])
        raise RetrofitError(f"the initial weights are not finite at {list(where)}")
    return w

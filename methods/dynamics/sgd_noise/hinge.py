"""The loss, the drawing of batches and the laws: pure functions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
"""Constants of splitmix64 as signed integers."""


def hinge(f: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
    """mean (1/alpha - y F)^+ over the last dimension (2301.13703, section 2): F = f(w, x) - f(w0, x) and y = +-1.

    alpha scales the predictor; the loss is divided by alpha, so that its gradient is of the order of one. At
    y F >= 1/alpha the gradient is exactly zero.
    """
    return (1 / alpha - y * f).clamp(min=0).mean(-1)


def fitted(f: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
    """Whether every y F >= 1/alpha, bool over all but the last dimension."""
    return (y * f >= 1 / alpha.unsqueeze(-1)).all(-1)


def splitmix(x: Tensor) -> Tensor:
    """A hash of int64, element by element (Steele, Lea and Flood 2014), >= 0."""
    x = x + _GOLDEN
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return _shifted(x ^ _shifted(x, 31), 1)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A logical shift to the right."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def drawn(seeds: Tensor, update: int, batch: int, sizes: Tensor) -> Tensor:
    """Indices of a batch with replacement, int64 [E, batch]: a hash of (seed, update, place), modulo each size.

    Nothing to save or to reorder: the same whichever members are still trained.
    """
    place = torch.arange(batch) + update * batch
    return splitmix(splitmix(seeds)[:, None] + place) % sizes[:, None]


def shuffled(seeds: Tensor, update: int, batch: int, sizes: Tensor, most: int) -> Tensor:
    """Indices without replacement within an epoch, int64 [E, batch]; the end of an epoch joins the next one.

    most: the largest size. Each epoch's order is that of the hashes of its images.
    """
    place = torch.arange(batch) + update * batch
    epoch = place // sizes[:, None]
    found = torch.empty((len(seeds), batch), dtype=torch.int64)
    images = torch.arange(most)
    for which in (epoch[:, :1], epoch[:, -1:]):
        keys = splitmix(splitmix(seeds)[:, None] + splitmix(which) + images)
        keys = torch.where(images < sizes[:, None], keys, torch.iinfo(torch.int64).max)
        order = keys.argsort(dim=-1, stable=True)
        found = torch.where(epoch == which, order.gather(1, place % sizes[:, None]), found)
    return found


def crossing(t: np.ndarray, moved: np.ndarray, factor: float) -> float:
    """T_c: where `moved` [T] first reaches factor times its value at the smallest T, by interpolation in logarithms.

    NaN where it does not.
    """
    level = np.log(factor * moved[0])
    high = np.log(moved)
    above = np.nonzero(np.isfinite(high) & (high >= level))[0]
    if not len(above) or not np.isfinite(level):
        return float("nan")
    j = int(above[0])
    i = j - 1
    share = (level - high[i]) / (high[j] - high[i])
    return float(np.exp(np.log(t[i]) + share * (np.log(t[j]) - np.log(t[i]))))


def plane(t: np.ndarray, p: np.ndarray, moved: np.ndarray) -> tuple[float, float]:
    """delta, gamma of moved ~ T^delta P^gamma by least squares in logarithms; [n] each."""
    design = np.column_stack([np.log(t), np.log(p), np.ones(len(t))])
    delta, gamma, _ = np.linalg.lstsq(design, np.log(moved), rcond=None)[0]
    return float(delta), float(gamma)

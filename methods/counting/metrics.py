"""How wrong counts are: MAE, RMSE, NAE, and GAME, which also asks where things are.

What a field of crowd counting calls MSE is the root mean squared error. The truth is the number of points, never
the sum of a density map. GAME: Guerrero-Gómez-Olmedo et al., "Extremely overlapping vehicle counting" (2015).
"""

from __future__ import annotations

import numpy as np


def mae(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute error of the counts [n]."""
    return float(np.abs(predicted - true).mean())


def rmse(predicted: np.ndarray, true: np.ndarray) -> float:
    """Root of the mean squared error of the counts [n]; never below the MAE."""
    return float(np.sqrt(((predicted - true) ** 2).mean()))


def nae(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean absolute error as a share of the true count, over images with something to count; nan without any."""
    there = true > 0
    if not there.any():
        return float("nan")
    return float((np.abs(predicted - true)[there] / true[there]).mean())


def cell_edges(length: int, level: int) -> np.ndarray:
    """int64 [2^level + 1]: borders of the cells along one side, as even as whole pixels allow."""
    return np.arange(2**level + 1) * length // 2**level


def cell_sums(density: np.ndarray, level: int) -> np.ndarray:
    """Sums of a map [h, w] over 4^level cells, [2^level, 2^level]."""
    rows, columns = (cell_edges(length, level) for length in density.shape)
    total = np.zeros((density.shape[0] + 1, density.shape[1] + 1))
    total[1:, 1:] = density.cumsum(0).cumsum(1)
    corners = total[np.ix_(rows, columns)]
    return np.diff(np.diff(corners, axis=0), axis=1)


def cell_counts(points: np.ndarray, shape: tuple[int, int], level: int) -> np.ndarray:
    """How many of the points [n, 2] (x, y) lie in each cell; those outside count in the nearest one."""
    rows, columns = (cell_edges(length, level) for length in shape)
    inside = np.clip(np.floor(points[:, ::-1]), 0, np.array(shape) - 1)
    found, _, _ = np.histogram2d(inside[:, 0], inside[:, 1], bins=(_open(rows), _open(columns)))
    return found


def _open(edges: np.ndarray) -> np.ndarray:
    """Edges between pixels, so that a pixel belongs to one cell; an empty cell stays empty."""
    return edges - 0.5


def game(predicted: np.ndarray, true: np.ndarray) -> float:
    """Σ over cells |predicted - true| of one image; with a single cell the absolute error of the count."""
    return float(np.abs(predicted - true).sum())

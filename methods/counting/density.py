"""Density maps: from marked points to a map whose sum is their number.

A point (x, y) in pixels from the upper left corner lies in the pixel (floor x, floor y). Its kernel is a
product of two one-dimensional Gaussians cut to a window, so a map is one matrix product: rows times columns.
Sources: Lempitsky and Zisserman (2010); Zhang et al. (2016, MCNN) for kernels that follow the crowd's density.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

Border = Literal["renormalise", "recentre", "reflect", "constant"]
Outside = Literal["clamp", "drop", "refuse"]
AT_ONCE = 2000
"""Points whose kernels are in memory together."""
TRUNCATE = 4.0
"""Deviations at which a kernel without a size of its own is cut."""


def gaussian(size: int, sigma: float) -> np.ndarray:
    """The normalised kernel, float64 [size, size]."""
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
    return np.outer(line, line) / line.sum() ** 2


def outside(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """bool [n]: which of the points [n, 2] lie outside an image of (height, width)."""
    height, width = shape
    x, y = points[:, 0], points[:, 1]
    return (x < 0) | (y < 0) | (x >= width) | (y >= height)


def kept(points: np.ndarray, shape: tuple[int, int], policy: Outside) -> np.ndarray:
    """The points that count: all (`clamp`), those inside (`drop`), or ValueError for any outside (`refuse`)."""
    wrong = outside(points, shape)
    if policy == "refuse" and wrong.any():
        first = points[wrong][0]
        raise ValueError(
            f"{int(wrong.sum())} of {len(points)} points lie outside the image of {shape[1]} x {shape[0]} "
            f"pixels, the first one at ({first[0]:g}, {first[1]:g})"
        )
    return points[~wrong] if policy == "drop" else points


def pixels(points: np.ndarray, shape: tuple[int, int], one_based: bool = False) -> np.ndarray:
    """int64 [n, 2], the (row, column) of each point's pixel, clamped into the image.

    one_based: as published code (SASNet, C-3) reads coordinates, whatever they are: the first pixel has 1, and
    magnitudes are taken, so that a map of 0-based points is shifted by a pixel.
    """
    whole = np.floor(points[:, ::-1]).astype(np.int64)
    if one_based:
        whole = np.maximum(1, np.abs(whole)) - 1
    return np.clip(whole, 0, np.array(shape) - 1)


def adaptive_sigmas(
    points: np.ndarray, shape: tuple[int, int], beta: float = 0.3, neighbours: int = 3
) -> np.ndarray:
    """float64 [n]: beta times the mean distance to the nearest neighbours (MCNN, section 2.2).

    Fewer neighbours than asked for: the mean over those there are. A lone point has none and gets a quarter of the
    image's mean side, as in CSRNet's code (which has infinite kernels for two and three points).
    """
    from scipy.spatial import cKDTree

    count = len(points)
    if count < 2:
        return np.full(count, sum(shape) / 8.0)
    distances, _ = cKDTree(points).query(points, k=min(neighbours, count - 1) + 1)
    return beta * distances[:, 1:].mean(1)


def density_map(
    points: np.ndarray,
    shape: tuple[int, int],
    sigma: float | np.ndarray = 4.0,
    size: int | None = 15,
    border: Border = "renormalise",
    one_based: bool = False,
) -> np.ndarray:
    """float64 [height, width] whose sum is the number of points [n, 2] (but for `border="constant"`).

    sigma: one for all or [n]. size: odd side of the kernel's window; None: four deviations to each side.
    border, where a window reaches out of the image: `renormalise` scales what is inside to 1; `recentre` makes the
    kernel anew for the window that is left, as published (SASNet, C-3), which moves its peak by up to a quarter of
    the window; `reflect` folds it back at the edge; `constant` loses it, as CSRNet's maps for part A do.
    Points outside are clamped to the nearest pixel. ValueError for a sigma that is not positive or an even size.
    """
    sigmas = np.broadcast_to(np.asarray(sigma, np.float64), (len(points),))
    if len(points) and not (sigmas > 0).all():
        raise ValueError(f"kernel deviations must be positive, the smallest is {sigmas.min():g}")
    if size is not None and size % 2 == 0:
        raise ValueError(f"kernel size {size} is even and has no middle pixel")
    found = np.zeros(shape)
    at = pixels(points, shape, one_based)
    for start in range(0, len(points), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        rows, columns = (
            line_weights(at[part, axis], shape[axis], sigmas[part], size, border) for axis in (0, 1)
        )
        found += rows.T @ columns
    return found


def line_weights(
    centres: np.ndarray, length: int, sigmas: np.ndarray, size: int | None, border: Border
) -> np.ndarray:
    """float64 [n, length]: each kernel along one axis; rows sum to 1 unless `border` is `constant`."""
    radius = radii(sigmas, size)[:, None]
    middle, spread = centres[:, None].astype(np.float64), sigmas[:, None]
    if border == "recentre":
        first, last = np.maximum(middle - radius, 0), np.minimum(middle + radius, length - 1)
        middle, radius = (first + last) / 2, (last - first) / 2
    reach = int(radius.max()) if border in ("reflect", "constant") else 0
    positions = np.arange(-reach, length + reach)
    offset = positions - middle
    weights = np.where(np.abs(offset) <= radius, np.exp(-0.5 * (offset / spread) ** 2), 0.0)
    weights /= weights.sum(1, keepdims=True)
    if border == "constant":
        return weights[:, reach : reach + length]
    if border == "reflect":
        folded = positions % (2 * length)
        folded = np.where(folded < length, folded, 2 * length - 1 - folded)
        target = np.zeros((len(centres), length))
        for position, column in zip(folded, weights.T, strict=True):
            target[:, position] += column
        return target
    return weights


def radii(sigmas: np.ndarray, size: int | None) -> np.ndarray:
    """int64 [n]: pixels from a kernel's middle to the edge of its window."""
    if size is not None:
        return np.full(len(sigmas), size // 2)
    return (TRUNCATE * sigmas + 0.5).astype(np.int64)

"""Random crops of images and their density maps, as a pure function of (seed, update)."""

from __future__ import annotations

import numpy as np
import torch


def random_crop(
    image: np.ndarray,
    density: np.ndarray,
    side: int | None,
    flip: bool,
    fill: np.ndarray,
    generator: torch.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A square of `side` pixels (None: the whole image) and its map, perhaps mirrored together.

    image: uint8 [h, w, 3]; density: [h, w]. Where the image is smaller than the crop, the rest is of the colour
    `fill` and empty.
    """
    across, down, mirrored = torch.rand(3, generator=generator).tolist()
    if side is not None:
        image, density = padded(image, density, side, fill)
        height, width = density.shape
        top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
        image = image[top : top + side, left : left + side]
        density = density[top : top + side, left : left + side]
    if flip and mirrored < 0.5:
        image, density = image[:, ::-1], density[:, ::-1]
    return image, density


def padded(
    image: np.ndarray, density: np.ndarray, side: int, fill: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Image and map with no side shorter than `side`, filled at the right and the bottom."""
    height, width = density.shape
    if min(height, width) >= side:
        return image, density
    shape = (max(height, side), max(width, side))
    larger = np.empty((*shape, 3), image.dtype)
    larger[:] = fill
    larger[:height, :width] = image
    emptier = np.zeros(shape, density.dtype)
    emptier[:height, :width] = density
    return larger, emptier

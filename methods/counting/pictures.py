"""Pictures of truth and prediction side by side, as PNG files with a line of text in them."""

from __future__ import annotations

import io

import numpy as np

from methods.counting.density import pixels

GAP = 3
"""Pixels between the three panels."""
COLOURS, WIDTH = 64, 360
"""Of a file at most; pictures stand in reports, and photographs would fill them."""
DOT = np.array([255, 40, 40], np.uint8)


def overlay(image: np.ndarray, density: np.ndarray, most: float) -> np.ndarray:
    """uint8 [h, w, 3]: the image in dim grey under a density, dark red to yellow at `most`."""
    grey = image.mean(2, keepdims=True) * 0.5
    level = np.clip(density / max(most, 1e-12), 0, 1)[..., None] ** 0.5
    warm = np.concatenate([np.ones_like(level), np.clip(2 * level - 0.8, 0, 1), 0 * level], 2) * 255
    return (grey * (1 - level) + warm * level).round().astype(np.uint8)


def marked(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The image with a small dot at every point (x, y)."""
    shown = image.copy()
    for row, column in pixels(points, image.shape[:2]):
        shown[max(0, row - 1) : row + 1, max(0, column - 1) : column + 1] = DOT
    return shown


def side_by_side(
    image: np.ndarray, points: np.ndarray, true: np.ndarray, predicted: np.ndarray
) -> np.ndarray:
    """uint8 [h, 3 w + gaps, 3]: the marked image, the true map and the predicted one on the same scale."""
    most = float(true.max()) or float(predicted.max())
    gap = np.full((image.shape[0], GAP, 3), 255, np.uint8)
    panels = [marked(image, points), *(overlay(image, m, most) for m in (true, predicted))]
    return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], 1)


def png(picture: np.ndarray, title: str) -> bytes:
    """A PNG file with the title as its text, at most `WIDTH` wide; the same bytes for the same picture."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("Title", title)
    body = io.BytesIO()
    image = Image.fromarray(picture)
    if image.width > WIDTH:
        image = image.resize(
            (WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.BOX
        )
    few = image.quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(body, "PNG", pnginfo=info, optimize=True)
    return body.getvalue()


def spread(counts: list[int], number: int) -> list[int]:
    """Rows of so many images, from few objects to many, at even ranks; all where there are no more."""
    order = sorted(range(len(counts)), key=lambda row: (counts[row], row))
    if number >= len(order):
        return order
    return [order[int((k + 0.5) * len(order) / number)] for k in range(number)]

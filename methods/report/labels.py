"""Direct labels beside points, moved until they cover neither each other nor a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDES = (
    *((7, 0, "left", "center"), (0, 7, "center", "bottom"), (0, -7, "center", "top")),
    *((-7, 0, "right", "center"), (6, 6, "left", "bottom"), (6, -6, "left", "top")),
    *((-6, 6, "right", "bottom"), (-6, -6, "right", "top")),
    *((10, 14, "left", "bottom"), (10, -14, "left", "top")),
    *((-10, 14, "right", "bottom"), (-10, -14, "right", "top")),
    *((14, 24, "left", "bottom"), (14, -24, "left", "top"), (-14, 24, "right", "bottom")),
)
"""Offsets in points, the nearest first."""
FAR = 8
"""From this side on a thin line leads from the label to its point."""


class Label(NamedTuple):
    """A text for the point (x, y) in data coordinates."""

    x: float
    y: float
    text: str
    color: str


def place(
    axes: Axes,
    labels: Sequence[Label],
    bars: Sequence[tuple[float, float, float, float]] = (),
    size: float = 8.0,
) -> None:
    """Annotate each point on the first side that is free, in order; else where least is covered.

    `bars`: (x low, y low, x high, y high) in data coordinates of what else is drawn and should stay visible.
    """
    canvas = axes.figure.canvas
    canvas.draw()  # fixes the layout, so that positions on the canvas are final
    renderer = canvas.get_renderer()
    inside = axes.get_window_extent(renderer)
    scale = axes.figure.dpi / 72
    points = [axes.transData.transform((label.x, label.y)) for label in labels]
    taken = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in points]
    for x_low, y_low, x_high, y_high in bars:
        left, bottom = axes.transData.transform((x_low, y_low))
        right, top = axes.transData.transform((x_high, y_high))
        taken.append((left - scale, bottom - scale, right + scale, top + scale))
    for label in labels:
        best = None
        for index, (dx, dy, ha, va) in enumerate(SIDES):
            text = axes.annotate(
                label.text,
                (label.x, label.y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=size,
                color=label.color,
                arrowprops={"arrowstyle": "-", "color": label.color, "lw": 0.6, "shrinkA": 0}
                if index >= FAR
                else None,
            )
            box = text.get_window_extent(renderer).extents
            if index >= FAR:
                box = _text_box(text, renderer)
            cost = sum(_overlap(box, other) for other in taken) + 3 * _outside(box, inside.extents)
            if best is None or cost < best[0] - 1e-6:
                if best:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
            if cost <= 1e-6:
                break
        taken.append(tuple(best[2]))


def _text_box(text, renderer) -> tuple[float, float, float, float]:
    """The text without its leading line, where the annotation has put it."""
    from matplotlib.text import Text

    return tuple(Text.get_window_extent(text, renderer).extents)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    across = min(a[2], b[2]) - max(a[0], b[0])
    up = min(a[3], b[3]) - max(a[1], b[1])
    return across * up if across > 0 and up > 0 else 0.0


def _outside(box: Sequence[float], frame: Sequence[float]) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return max(0.0, area - _overlap(box, frame))

"""Scatter plots of two metrics, and one metric as bars or points with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from methods.measure.statistics import Interval
from methods.report.cells import CellResult, Measurement
from methods.report.labels import Label, place
from methods.report.numbers import significant
from methods.report.style import (
    INK,
    MUTED,
    linear_axis,
    log_axis,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from methods.report.figures import Selection

Drawn = tuple["Canvas", str, dict[str, Any]]
SCATTER_HEIGHT, ROW_HEIGHT = 4.3, 0.3
BARS_FROM_ZERO = 0.5
"""Bars are drawn where the smallest value is below this share of the largest; closer values get points on an axis that
does not begin at zero, since the length of a bar that does not begin there says nothing."""


def scatter(selection: Selection) -> Drawn | None:
    """Two metrics of every variant, labelled; a line joins each family, a dashed one the Pareto front."""
    figure = selection.figure
    rows = {
        setting: [
            (cell, x, y)
            for cell in selection.of(setting)
            if (x := cell.measurement(figure.x)) and (y := cell.measurement(figure.y))
        ]
        for setting in selection.settings
    }
    rows = {setting: found for setting, found in rows.items() if found}
    if not rows:
        return None
    canvas, axes = panels(len(rows), SCATTER_HEIGHT if len(rows) < 3 else 3.2, columns=2)
    pending = []
    for ax, (setting, found) in zip(axes, rows.items(), strict=True):
        pending.append(_scatter_panel(ax, selection, found))
        ax.set_title(selection.panel_title(setting))
        ax.set_xlabel(selection.axis_label(figure.x_label, figure.x))
        ax.set_ylabel(selection.axis_label(figure.y_label, figure.y))
    for ax, (labels, errors) in zip(axes, pending, strict=True):
        place(ax, labels, errors, size=8 if len(labels) <= 14 else 7)
    return canvas, _scatter_words(selection, rows), {}


def _scatter_panel(
    ax: Axes, selection: Selection, found: list[tuple[CellResult, Measurement, Measurement]]
) -> tuple[list[Label], list[tuple[float, float, float, float]]]:
    from methods.report.figures import family

    figure = selection.figure
    ax.margins(0.12)
    families: dict[str, list] = {}
    for cell, x, y in found:
        families.setdefault(family(cell.variant), []).append((x.value, y.value, cell.variant))
    for points in families.values():
        if len(points) > 1:
            points.sort()
            color = selection.color(points[0][2])
            ax.plot(
                *zip(*[(x, y) for x, y, _ in points], strict=True), color=color, lw=1.2, alpha=0.45
            )
    labels, errors = [], []
    for cell, x, y in found:
        color = selection.color(cell.variant)
        across, up = x.interval(), y.interval()
        if up.low is not None:
            errors.append((x.value, up.low, x.value, up.high))
        if across.low is not None:
            errors.append((across.low, y.value, across.high, y.value))
        ax.errorbar(
            x.value,
            y.value,
            xerr=_error(across),
            yerr=_error(up),
            fmt="o",
            ms=6,
            color=color,
            ecolor=color,
            elinewidth=1.1,
            capsize=0,
            zorder=3,
        )
        labels.append(Label(x.value, y.value, selection.label(cell.variant), color))
    if figure.x_log:
        log_axis(ax, "x")
    else:
        linear_axis(ax, "x")
    if figure.y_log:
        log_axis(ax, "y")
    else:
        linear_axis(ax, "y")
    _front(ax, found)
    _references(ax, selection.references(found[0][0].setting))
    return labels, errors


def _front(ax: Axes, found: list[tuple[CellResult, Measurement, Measurement]]) -> None:
    """The variants that no other one beats on both metrics."""
    up, right = found[0][2].higher_is_better, found[0][1].higher_is_better
    if up is None or right is None or len(found) < 3:
        return
    best = pareto([(x.value, y.value) for _, x, y in found], right, up)
    if len(best) > 1:
        xs, ys = zip(*sorted(best), strict=True)
        front = "beaten by none on both"
        ax.plot(xs, ys, color=INK, lw=0.9, ls=(0, (4, 3)), alpha=0.7, zorder=1, label=front)
        ax.legend(loc="upper right", fontsize=8, labelcolor=MUTED)


def pareto(
    points: list[tuple[float, float]], x_higher: bool, y_higher: bool
) -> list[tuple[float, float]]:
    """The points that no other point beats or equals on both coordinates while beating it on one."""
    signs = (1 if x_higher else -1, 1 if y_higher else -1)
    oriented = [(signs[0] * x, signs[1] * y) for x, y in points]
    return [
        point
        for point, (x, y) in zip(points, oriented, strict=True)
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in oriented)
    ]


def bars(selection: Selection) -> Drawn | None:
    """One metric of every variant: mean, interval, and a point for each seed."""
    figure = selection.figure
    rows = {
        setting: [(cell, m) for cell in selection.of(setting) if (m := cell.measurement(figure.y))]
        for setting in selection.settings
    }
    rows = {setting: found for setting, found in rows.items() if found}
    if not rows:
        return None
    longest = max(map(len, rows.values()))
    columns = 3 if longest < 7 else 2
    canvas, axes = panels(len(rows), 0.75 + ROW_HEIGHT * longest, columns=columns)
    names = [
        v for v in selection.variants if any(v == c.variant for r in rows.values() for c, _ in r)
    ]
    places = {variant: len(names) - 1 - index for index, variant in enumerate(names)}
    for ax, (setting, found) in zip(axes, rows.items(), strict=True):
        _bar_panel(ax, selection, found, places)
        ax.set_title(selection.panel_title(setting))
        ax.set_yticks(list(places.values()), [selection.label(v) for v in places])
        ax.set_ylim(-0.6, len(places) - 0.4)
        ax.set_xlabel(selection.axis_label(figure.y_label, figure.y))
    return canvas, _bars_words(selection, rows), {}


def _bar_panel(
    ax: Axes,
    selection: Selection,
    found: list[tuple[CellResult, Measurement]],
    places: dict[str, int],
) -> None:
    figure = selection.figure
    every = [value * figure.scale for _, m in found for value in m.values]
    from_zero = min(every) >= 0 and min(every) < BARS_FROM_ZERO * max(every) and not figure.y_log
    for cell, measurement in found:
        color, y = selection.color(cell.variant), places[cell.variant]
        interval = _scaled(measurement.interval(), figure.scale)
        values = [value * figure.scale for value in measurement.values]
        if from_zero:
            ax.barh(y, interval.value, height=0.62, color=color, alpha=0.28, lw=0)
        if interval.low is not None:
            ax.plot([interval.low, interval.high], [y, y], color=color, lw=2.2, zorder=3)
            spread = [y + 0.17] * len(values)
            ax.plot(values, spread, "o", ms=2.8, color=color, alpha=0.75, mew=0, zorder=4)
        ax.plot(interval.value, y, "o", ms=6, color=color, zorder=5)
        ax.annotate(
            significant(interval.value, 4),
            (max(interval.value, interval.high or interval.value), y),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=MUTED,
        )
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.margins(x=0.18)
    if figure.y_log:
        log_axis(ax, "x")
    else:
        linear_axis(ax, "x")
    if from_zero:
        ax.set_xlim(left=0)
    _references(ax, selection.references(found[0][0].setting), vertical=True)


def _references(ax: Axes, references: dict[str, float], vertical: bool = False) -> None:
    for text, value in references.items():
        line = ax.axvline if vertical else ax.axhline
        line(value, color=MUTED, lw=1, ls=(0, (2, 2)), zorder=1)
        at = (value, 1.0) if vertical else (1.0, value)
        frame = ("data", "axes fraction") if vertical else ("axes fraction", "data")
        ax.annotate(
            text,
            at,
            xycoords=frame,
            xytext=(3, -3) if vertical else (-2, 3),
            textcoords="offset points",
            ha="left" if vertical else "right",
            va="top" if vertical else "bottom",
            fontsize=7.5,
            color=MUTED,
            bbox={"facecolor": "none", "edgecolor": "none", "pad": 0},
        )


def _scaled(interval: Interval, scale: float) -> Interval:
    if interval.low is None:
        return Interval(interval.value * scale, None, None, interval.n)
    bounds = sorted((interval.low * scale, interval.high * scale))
    return Interval(interval.value * scale, *bounds, interval.n)


def _error(interval: Interval) -> list[list[float]] | None:
    if interval.low is None:
        return None
    return [[interval.value - interval.low], [interval.high - interval.value]]


def _scatter_words(selection: Selection, rows: dict[str, list]) -> str:
    parts = [f"{selection.figure.y} against {selection.figure.x}"]
    for setting, found in rows.items():
        where = selection.panel_title(setting)
        points = "; ".join(
            f"{selection.label(cell.variant)}: {significant(x.value)}, {significant(y.value)}"
            for cell, x, y in found
        )
        parts.append(f"{where}: {points}" if where else points)
    return ". ".join(parts) + "."


def _bars_words(selection: Selection, rows: dict[str, list]) -> str:
    parts = [selection.figure.y]
    for setting, found in rows.items():
        where = selection.panel_title(setting)
        points = "; ".join(
            f"{selection.label(cell.variant)}: {significant(m.value * selection.figure.scale, 4)}"
            for cell, m in found
        )
        parts.append(f"{where}: {points}" if where else points)
    return ". ".join(parts) + "."

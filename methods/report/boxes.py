"""Boxes over replicates: a metric's single values, or their ratios to another variant's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from methods.report.cells import Measurement
from methods.report.numbers import significant
from methods.report.style import INK, MUTED, WIDTH, linear_axis, log_axis

if TYPE_CHECKING:
    from methods.report.figures import Selection
    from methods.report.plots import Drawn

ROW = 0.27
"""Inches of one box."""


def boxes(selection: Selection) -> Drawn | None:
    """A group of boxes for each setting: quartiles, whiskers to the 5th and 95th percentile, the mean as a diamond.

    With `ratio_to` or `ratio_of`, replicates are paired by seed and label; a line marks the ratio 1.
    """
    from matplotlib import pyplot

    figure = selection.figure
    anchor = figure.ratio_to or figure.ratio_of
    groups = {}
    for setting in selection.settings:
        found = {v: r for v in selection.variants if len(r := _values(selection, setting, v))}
        if found:
            groups[setting] = found
    if not groups:
        return None
    shown = [v for v in selection.variants if any(v in found for found in groups.values())]
    total = sum(len(found) for found in groups.values()) + 0.7 * (len(groups) - 1)
    canvas, ax = pyplot.subplots(figsize=(WIDTH, 1.1 + ROW * total))
    place, ticks, names = 0.0, [], []
    for setting, found in groups.items():
        start = place
        for variant, values in found.items():
            _box(ax, place, values, selection.color(variant))
            if len(groups) == 1:
                ticks.append(place)
                names.append(_name(selection, variant))
            place -= 1
        if len(groups) > 1:
            ticks.append((start + place + 1) / 2)
            names.append(selection.panel_title(setting) or setting)
        place -= 0.7
    ax.set_yticks(ticks, names)
    ax.set_ylim(place + 1.2, 0.75)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    (log_axis if figure.y_log or figure.x_log else linear_axis)(ax, "x")
    if anchor:
        ax.axvline(1, color=INK, lw=1, zorder=1)
    for text, value in figure.reference.items():
        ax.axvline(value, color=MUTED, lw=1, ls=(0, (2, 2)), zorder=1)
        ax.annotate(text, (value, 1), xycoords=("data", "axes fraction"), fontsize=7.5, color=MUTED)
    ax.set_xlabel(_axis(selection, anchor))
    if len(groups) > 1:
        _legend(ax, selection, shown)
    return canvas, _words(selection, groups), {}


def _box(ax, place: float, values: np.ndarray, color: str) -> None:
    low, q1, median, q3, high = np.percentile(values, [5, 25, 50, 75, 95])
    ax.plot([low, high], [place, place], color=color, lw=1.3, zorder=2)
    ax.barh(place, q3 - q1, left=q1, height=0.62, color=color, alpha=0.32, lw=0, zorder=2)
    ax.plot([median, median], [place - 0.31, place + 0.31], color=color, lw=2.4, zorder=3)
    beyond = values[(values < low) | (values > high)]
    ax.plot(beyond, np.full(len(beyond), place), ".", ms=4, color=color, alpha=0.6, mew=0, zorder=2)
    ax.plot(values.mean(), place, "D", ms=3.6, color=color, zorder=4)


def _values(selection: Selection, setting: str, variant: str) -> np.ndarray:
    figure = selection.figure
    anchor = figure.ratio_to or figure.ratio_of
    ours = _replicates(selection, setting, variant)
    if anchor is None:
        return np.array(list(ours.values())) * figure.scale
    if variant == anchor:
        return np.array([])
    theirs = _replicates(selection, setting, anchor)
    pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
    if figure.ratio_of:
        pairs = [(b, a) for a, b in pairs]
    # A ratio with a zero in it has no place on a logarithmic axis.
    return np.array([a / b for a, b in pairs if b > 0 and (a > 0 or not figure.y_log)])


def _replicates(selection: Selection, setting: str, variant: str) -> dict[tuple[int, str], float]:
    """(seed, unit) → value."""
    cell = selection.cells.get(setting, variant)
    measurement: Measurement | None = cell.measurement(selection.figure.y) if cell else None
    if measurement is None:
        return {}
    found = {
        (seed, label): value
        for seed in measurement.seeds
        for label, value in measurement.units((seed,)).items()
    }
    return found or {(seed, ""): value for seed, value in measurement.by_seed().items()}


def _name(selection: Selection, variant: str) -> str:
    figure = selection.figure
    if figure.ratio_to:
        return f"{selection.label(variant)} / {selection.label(figure.ratio_to)}"
    if figure.ratio_of:
        return f"{selection.label(figure.ratio_of)} / {selection.label(variant)}"
    return selection.label(variant)


def _axis(selection: Selection, anchor: str | None) -> str:
    figure = selection.figure
    if anchor and not figure.y_label:
        return f"ratio of {figure.y}, replicate by replicate{_better_side(selection, anchor)}"
    return selection.axis_label(figure.y_label, figure.y)


def _better_side(selection: Selection, anchor: str) -> str:
    """Which side of 1 is good for whom, where the metric has a direction."""
    found = [m for cell in selection.cells if (m := cell.measurement(selection.figure.y))]
    if found[0].higher_is_better is None:
        return ""
    if selection.figure.ratio_of:
        side = "above" if found[0].higher_is_better else "below"
    else:
        side = "below" if found[0].higher_is_better else "above"
    return f" ({side} 1: {selection.label(anchor)} is better)"


def _legend(ax, selection: Selection, shown: list[str]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(color=selection.color(v), alpha=0.55, lw=0, label=_name(selection, v)) for v in shown
    ]
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=min(4, len(handles)),
        fontsize=8.5,
        borderaxespad=0.2,
        handlelength=1.2,
        columnspacing=1.6,
    )


def _words(selection: Selection, groups: dict[str, dict[str, np.ndarray]]) -> str:
    parts = []
    for setting, found in groups.items():
        where = selection.panel_title(setting)
        medians = "; ".join(
            f"{_name(selection, variant)}: median {significant(float(np.median(values)))} of {len(values)}"
            for variant, values in found.items()
        )
        parts.append(f"{where}: {medians}" if where else medians)
    return ". ".join(parts) + "."

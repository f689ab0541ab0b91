"""Curves out of the runs' histories, with the laws that they may follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from methods.report.cells import CellResult
from methods.report.fits import RIVALS, Fit, fit
from methods.report.numbers import significant
from methods.report.style import MUTED, linear_axis, log_axis, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from methods.report.figures import Selection
    from methods.report.plots import Drawn

HEIGHT = 3.7
FAINT = {"lw": 3.4, "alpha": 0.35}
"""Measured curves that fits are drawn over."""
FORMULA = {"log": "a + b ln x", "power": "c x^p", "scaling": "c x^p, least squares in logarithms"}


def curves(selection: Selection) -> Drawn | None:
    """y against x of `history.jsonl`: mean over seeds, the range of seeds shaded, fits dashed.

    The chosen law is dashed, the rejected one dotted; the equations of both go into the caption.
    """
    figure = selection.figure
    rows = {
        setting: {
            cell.variant: points
            for cell in selection.of(setting)
            if len(points := _points(selection, cell)[0])
        }
        for setting in selection.settings
    }
    rows = {setting: found for setting, found in rows.items() if found}
    if not rows:
        return None
    canvas, axes = panels(len(rows), HEIGHT, columns=2)
    fits: list[dict[str, Any]] = []
    for ax, (setting, found) in zip(axes, rows.items(), strict=True):
        title = selection.panel_title(setting)
        ends = []
        for variant in found:
            x, mean, low, high = _points(selection, selection.cells.get(setting, variant))
            color = selection.color(variant)
            ax.plot(x, mean, color=color, zorder=3, **(FAINT if figure.fit else {}))
            if (high > low).any():
                ax.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
            ends.append((x[-1], mean[-1], selection.label(variant), color))
            fits += _fitted(ax, selection, setting, variant, x, mean)
        ax.set_title(title)
        ax.set_xlabel(figure.x_label or figure.x)
        ax.set_ylabel(figure.y_label or figure.y)
        (log_axis if figure.x_log else linear_axis)(ax, "x")
        (log_axis if figure.y_log else linear_axis)(ax, "y")
        _name_ends(ax, ends)
        for text, value in selection.references(setting).items():
            ax.axhline(value, color=MUTED, lw=1, ls=(0, (2, 2)), zorder=1)
            ax.annotate(
                text, (0.01, value), xycoords=("axes fraction", "data"), fontsize=7.5, color=MUTED
            )
    if figure.fit:
        _legend(axes[0], figure.fit)
    extra = {"fits": fits} if fits else {}
    return canvas, _words(selection, rows), extra


def _points(selection: Selection, cell: CellResult) -> tuple[np.ndarray, ...]:
    """x, mean, lowest and highest y over the seeds that have this x; sorted by x."""
    figure = selection.figure
    gathered: dict[float, list[float]] = {}
    seeds = 1 if cell.deterministic else len(cell.planned)
    for seed in range(seeds):
        for row in selection.cells.history(cell, seed):
            if figure.x in row and figure.y in row:
                x, y = float(row[figure.x]), float(row[figure.y])
                if np.isfinite(y) and (x > 0 or not figure.x_log) and (y > 0 or not figure.y_log):
                    gathered.setdefault(x, []).append(y)
    xs = sorted(gathered)
    values = [gathered[x] for x in xs]
    return (
        np.array(xs),
        np.array([sum(v) / len(v) for v in values]),
        np.array([min(v) for v in values]),
        np.array([max(v) for v in values]),
    )


def _fitted(
    ax: Axes, selection: Selection, setting: str, variant: str, x: np.ndarray, y: np.ndarray
) -> list[dict[str, Any]]:
    figure = selection.figure
    if figure.fit is None:
        return []
    kept = x >= (figure.fit_from or 0)
    found: dict[str, Fit] = {}
    for law in RIVALS[figure.fit]:
        made = fit(law, x[kept], y[kept])
        if made:
            found[law] = made
            grid = np.geomspace(max(x[kept][0], 1e-12), x[kept][-1], 120)
            chosen = law == figure.fit
            dashes = (0, (5, 2)) if chosen else (0, (1, 2))
            ax.plot(grid, made(grid), color=selection.color(variant), lw=1.1, ls=dashes, zorder=4)
    where = selection.panel_title(setting)
    name = f"{where}, {selection.label(variant)}" if where else selection.label(variant)
    return [
        {
            "setting": setting,
            "variant": variant,
            "law": law,
            "chosen": law == figure.fit,
            "equation": made.equation,
            "r_squared": made.r_squared,
            "parameters": [made.first, made.second],
            "sentence": f"{name}: {'fit' if law == figure.fit else 'rejected alternative'} {made.sentence}",
        }
        for law, made in sorted(found.items(), key=lambda entry: entry[0] != figure.fit)
    ]


def _legend(ax: Axes, chosen: str) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=MUTED,
            lw=1.1,
            ls=(0, (5, 2)) if law == chosen else (0, (1, 2)),
            label=f"{'fit' if law == chosen else 'rejected:'} {FORMULA[law]}",
        )
        for law in RIVALS[chosen]
    ]
    ax.legend(handles=handles, loc="upper left", fontsize=8, labelcolor=MUTED)


def _name_ends(ax: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Names right of the curves' ends, moved apart where they would cover each other."""
    figure = ax.figure
    step = 11.5  # points from one line of text to the next
    figure.canvas.draw()
    scale = 72 / figure.dpi
    heights = [ax.transData.transform((x, y))[1] * scale for x, y, _, _ in ends]
    order = sorted(range(len(ends)), key=lambda index: heights[index])
    placed: dict[int, float] = {}
    last = -1e9
    for index in order:
        last = max(heights[index], last + step)
        placed[index] = last
    # Half of what the top one was pushed up goes back to all, so that the block stays centred.
    excess = (last - heights[order[-1]]) / 2 if order else 0.0
    for index, (x, y, text, color) in enumerate(ends):
        ax.annotate(
            text,
            (x, y),
            xytext=(7, placed[index] - heights[index] - excess),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=color,
            annotation_clip=False,
        )


def _words(selection: Selection, rows: dict[str, dict[str, Any]]) -> str:
    parts = [f"{selection.figure.y} against {selection.figure.x}"]
    for setting, found in rows.items():
        ends = []
        for variant in found:
            x, mean, _, _ = _points(selection, selection.cells.get(setting, variant))
            ends.append(
                f"{selection.label(variant)} ends at {significant(mean[-1])} for x = {significant(x[-1])}"
            )
        where = selection.panel_title(setting)
        parts.append((f"{where}: " if where else "") + "; ".join(ends))
    return ". ".join(parts) + "."

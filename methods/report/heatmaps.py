"""Phase diagrams: one column of the runs' histories as colour over two others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from methods.report.cells import CellResult
from methods.report.numbers import significant
from methods.report.style import MUTED, panels, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Colormap, Normalize

    from methods.report.figures import Selection
    from methods.report.plots import Drawn
    from methods.study.reporting import Figure

HEIGHT = 3.4
LEVELS = 40
"""Fewer than 50, from which on matplotlib draws a colour bar as an image instead of as shapes."""
WRITTEN = 9
"""Grids up to this many columns have their numbers written into the fields."""

Grid = tuple[np.ndarray, np.ndarray, np.ndarray]


def heatmap(selection: Selection) -> Drawn | None:
    """`value` over x and y, mean over seeds; a crossed field had no finite value, a blank one no run."""
    from matplotlib import colormaps, colors

    figure = selection.figure
    grids = {
        (setting, cell.variant): found
        for setting in selection.settings
        for cell in selection.of(setting)
        if len((found := _grid(selection, cell))[0])
    }
    seen = [z[np.isfinite(z)] for _, _, z in grids.values()]
    values = np.concatenate(seen) if seen else np.array([])
    if figure.value_log:
        values = values[values > 0]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5 * abs(low or 1), high + 0.5 * abs(high or 1)
    norm = (colors.LogNorm if figure.value_log else colors.Normalize)(low, high)
    palette = colormaps["viridis"].resampled(LEVELS)
    canvas, axes = panels(len(grids), HEIGHT, columns=2, share=False)
    for ax, ((setting, variant), grid) in zip(axes, grids.items(), strict=True):
        mesh = _panel(ax, figure, grid, norm, palette)
        title = selection.panel_title(setting)
        name = selection.label(variant) if len({v for _, v in grids}) > 1 else ""
        ax.set_title(", ".join(part for part in (title, name) if part))
        ax.set_xlabel(figure.x_label or figure.x)
        ax.set_ylabel(figure.y_label or figure.y)
    bar = canvas.colorbar(mesh, ax=axes, label=figure.value_label or figure.value, aspect=28)
    bar.outline.set_visible(False)
    return canvas, _words(selection, grids), {}


def _grid(selection: Selection, cell: CellResult) -> Grid:
    """xs [w], ys [h], values [h, w]: mean over seeds; nan without a finite value, inf without a row."""
    figure = selection.figure
    gathered: dict[tuple[float, float], list[float]] = {}
    for seed in range(1 if cell.deterministic else len(cell.planned)):
        for row in selection.cells.history(cell, seed):
            if figure.x in row and figure.y in row and figure.value in row:
                at = (float(row[figure.x]), float(row[figure.y]))
                found = row[figure.value]
                shown = np.nan if found is None else float(found) * figure.scale
                gathered.setdefault(at, []).append(shown if np.isfinite(shown) else np.nan)
    xs = np.array(sorted({x for x, _ in gathered}))
    ys = np.array(sorted({y for _, y in gathered}))
    z = np.full((len(ys), len(xs)), np.inf)
    for (x, y), found in gathered.items():
        finite = [value for value in found if np.isfinite(value)]
        mean = sum(finite) / len(finite) if finite else np.nan
        z[np.searchsorted(ys, y), np.searchsorted(xs, x)] = mean
    return xs, ys, z


def _panel(ax: Axes, figure: Figure, grid: Grid, norm: Normalize, palette: Colormap) -> QuadMesh:
    xs, ys, z = grid
    x_edges, y_edges = _edges(xs, figure.x_log), _edges(ys, figure.y_log)
    shown = np.ma.masked_invalid(np.where(np.isposinf(z), np.nan, z))
    if figure.value_log:
        shown = np.ma.masked_where(shown <= 0, shown)
    mesh = ax.pcolormesh(x_edges, y_edges, shown, norm=norm, cmap=palette, lw=0)
    for which, log, ticks, most in (("x", figure.x_log, xs, 5), ("y", figure.y_log, ys, 8)):
        if log:
            getattr(ax, f"set_{which}scale")("log")
        kept = ticks[:: -(-len(ticks) // most)]
        names = [plain(float(f"{tick:.2g}")) for tick in kept]
        getattr(ax, f"set_{which}ticks")(kept, names, minor=False)
        getattr(ax, f"set_{which}ticks")([], minor=True)
    ax.grid(visible=False)
    for row, y in enumerate(ys):
        for column, x in enumerate(xs):
            value = z[row, column]
            if np.isnan(value):
                ax.annotate("×", (x, y), ha="center", va="center", fontsize=9, color=MUTED)
            elif np.isfinite(value) and len(xs) <= WRITTEN and (value > 0 or not figure.value_log):
                # Not the theme's colours: the field behind keeps its own in the dark as well.
                ink = "#fffffe" if norm(value) < 0.6 else "#000001"
                text = significant(value, 2)
                ax.annotate(text, (x, y), ha="center", va="center", fontsize=7, color=ink)
    return mesh


def _edges(centres: np.ndarray, log: bool) -> np.ndarray:
    """Borders halfway between neighbours, the outermost as far out as the next one in; [k] -> [k + 1]."""
    scale = np.log(centres) if log else centres
    if len(scale) == 1:
        edges = np.array([scale[0] - 0.5, scale[0] + 0.5])
    else:
        middle = (scale[1:] + scale[:-1]) / 2
        edges = np.concatenate([[2 * scale[0] - middle[0]], middle, [2 * scale[-1] - middle[-1]]])
    return np.exp(edges) if log else edges


def _words(selection: Selection, grids: dict[tuple[str, str], Grid]) -> str:
    figure = selection.figure
    parts = [f"{figure.value} over {figure.x} and {figure.y}"]
    for (setting, variant), (xs, ys, z) in grids.items():
        finite = np.where(np.isfinite(z), z, np.nan)
        where = selection.panel_title(setting)
        name = f"{where}, {selection.label(variant)}" if where else selection.label(variant)
        if np.isnan(finite).all():
            parts.append(f"{name}: no finite value")
            continue
        ends = []
        for word, index in (("lowest", np.nanargmin(finite)), ("highest", np.nanargmax(finite))):
            row, column = np.unravel_index(index, z.shape)
            ends.append(
                f"{word} {significant(finite[row, column])} at {figure.x} {significant(xs[column])}, "
                f"{figure.y} {significant(ys[row])}"
            )
        missing = int(np.isnan(z).sum())
        crossed = f"; {missing} fields without a value" if missing else ""
        parts.append(f"{name}: {', '.join(ends)}{crossed}")
    return ". ".join(parts) + "."

"""How figures look: colours that colour-blind readers can tell apart, a light grid, text as text."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK, MUTED, GRID = "#1f2431", "#6b7281", "#e3e6eb"
"""Written so that the page can swap exactly these for the colours of a dark theme."""
CONTROL = "#8b919c"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc6fa3", "#e09b00", "#3fa7dd", "#7a5cc4", "#94762f")
"""After Okabe and Ito (2008), the lightest left out."""
WIDTH = 7.2
"""Inches of a whole figure."""


@contextmanager
def styled(salt: str) -> Iterator[None]:
    """Settings under which the same data give the same bytes."""
    import matplotlib
    from matplotlib import rcParams, rcParamsDefault

    matplotlib.use("Agg")
    before = rcParams.copy()
    try:
        rcParams.update({k: v for k, v in rcParamsDefault.items() if k != "backend"})
        rcParams.update(_settings(salt))
        yield
    finally:
        dict.update(rcParams, before)


def _settings(salt: str) -> dict[str, Any]:
    return {
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "axes.titlesize": 9.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 9,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.unicode_minus": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "text.color": INK,
        "lines.linewidth": 1.8,
        "lines.solid_capstyle": "round",
        "legend.frameon": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
        "figure.constrained_layout.use": True,
    }


def panels(
    count: int, height: float, columns: int = 3, share: bool = True
) -> tuple[Canvas, list[Axes]]:
    """A figure of `count` equal panels, at most `columns` in a row, which share their vertical axis."""
    from matplotlib import pyplot

    across = min(count, columns)
    down = math.ceil(count / across)
    figure, grid = pyplot.subplots(
        down,
        across,
        figsize=(WIDTH, height * down),
        squeeze=False,
        sharey=share and across > 1 and "row",
    )
    axes = list(grid.flat)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def log_axis(axes: Axes, which: str) -> None:
    """A logarithmic axis whose labels are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else 3
    steps = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    for least, coarser in ((0.8, (1.0, 2.0, 5.0)), (2.0, (1.0, 3.0)), (3.5, (1.0,))):
        steps = coarser if decades > least else steps
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_formatter(NullFormatter())


def linear_axis(axes: Axes, which: str) -> None:
    """A linear axis whose labels are plain numbers, without offsets."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def plain(value: float) -> str:
    """A tick's label: 0.5, 20, 1 500, 2 M."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6:
        text = f"{value / 1e6:g}M"
    elif size >= 1e4:
        text = f"{value / 1e3:g}k"
    elif size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    else:
        text = f"{value:.6g}"
    return text.replace("-", "\u2212")

"""The study's figures: which cells each shows, its SVG file, and words for who cannot see it.

matplotlib is imported only while something is drawn.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.report.cells import CellResult, Cells
from methods.report.tables import label_of, setting_label
from methods.run.artifact import sha256
from methods.study.errors import RetrofitError
from methods.study.names import matches
from methods.study.reporting import Figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Selection:
    """The cells of one figure, with labels and colours that are the same in every figure of the study."""

    def __init__(self, cells: Cells, name: str, figure: Figure):
        from methods.report.style import CONTROL, PALETTE

        self.cells, self.figure = cells, figure
        self.where = f"{cells.plan.path}: figures.{name}"
        self.settings = [s for s in cells.settings if matches(s, figure.settings)]
        self.variants = [v for v in cells.variants if matches(v, figure.rows)]
        controls = {v for v, spec in cells.plan.study.variants.items() if spec.control}
        families = dict.fromkeys(family(v) for v in cells.variants if v not in controls)
        colors = {f: PALETTE[i % len(PALETTE)] for i, f in enumerate(families)}
        self._colors = {v: CONTROL if v in controls else colors[family(v)] for v in cells.variants}
        grey = dict.fromkeys(family(v) for v in self.variants if v in controls)
        if len(grey) > 1 and figure.kind in ("boxes", "curves"):
            # Told apart by colour alone, so that only one can be grey.
            more = {f: PALETTE[(len(colors) + i) % len(PALETTE)] for i, f in enumerate(grey)}
            self._colors |= {v: more[family(v)] for v in self.variants if v in controls}

    def of(self, setting: str) -> list[CellResult]:
        """The figure's cells in one setting, in the study's order."""
        found = (self.cells.get(setting, variant) for variant in self.variants)
        return [cell for cell in found if cell]

    def label(self, variant: str) -> str:
        """How the variant is called."""
        return label_of(self.cells, variant)

    def color(self, variant: str) -> str:
        """Grey for controls, one of the palette for each family of variants."""
        return self._colors[variant]

    def panel_title(self, setting: str) -> str:
        """The setting's label, and nothing where the study has a single one."""
        return setting_label(self.cells, setting) if len(self.cells.settings) > 1 else ""

    def references(self, setting: str) -> dict[str, float]:
        """Text → value of the lines in one panel; `<setting>/<text>` stands in that setting's only."""
        found = {}
        for text, value in self.figure.reference.items():
            where, slash, rest = text.partition("/")
            if not (slash and where in self.cells.plan.study.settings):
                found[text] = value
            elif where == setting:
                found[rest] = value
        return found

    def axis_label(self, given: str | None, metric: str) -> str:
        """The given label, or the metric with its unit and which way is better."""
        if given:
            return given
        found = [m for cell in self.cells if (m := cell.measurement(metric))]
        unit = f" [{found[0].unit}]" if found[0].unit else ""
        better = {True: ", higher is better", False: ", lower is better", None: ""}
        return f"{metric}{unit}{better[found[0].higher_is_better]}"


def family(variant: str) -> str:
    """The name without its numbers: awq-w3 and awq-w4 are of one family and share a colour."""
    return re.sub(r"\d+(\.\d+)?", "", variant)


def draw(cells: Cells, out: Path) -> dict[str, dict[str, Any]]:
    """Draw every figure of the study into `<out>/figures`; what the document says of each.

    A figure whose metric or variants this tier does not have is left out.
    Raises RetrofitError for a figure that names what no run has.
    """
    found = {}
    for name, figure in cells.plan.study.figures.items():
        record = _draw(cells, name, figure, out)
        if record:
            found[name] = record
    return found


def _draw(cells: Cells, name: str, figure: Figure, out: Path) -> dict[str, Any] | None:
    from matplotlib import pyplot

    from methods.report import boxes, curves, heatmaps, images, plots
    from methods.report.style import styled

    metrics = [figure.y] if figure.kind in ("bars", "boxes") else [figure.x, figure.y]
    if figure.kind in ("curves", "heatmap", "images"):
        metrics = []
    if not all(cells.measures(metric, f"figures.{name}") for metric in metrics):
        return None
    selection = Selection(cells, name, figure)
    if not selection.settings or not any(map(selection.of, selection.settings)):
        return None
    salt = f"{cells.plan.study.study}-{name}"
    drawers = {
        "scatter": plots.scatter,
        "bars": plots.bars,
        "curves": curves.curves,
        "boxes": boxes.boxes,
        "heatmap": heatmaps.heatmap,
        "images": images.images,
    }
    with styled(salt):
        drawn = drawers[figure.kind](selection)
        if drawn is None:
            if cells.plan.tier == "full":
                raise RetrofitError(f"{selection.where}: there is nothing to draw")
            return None
        canvas, alt, extra = drawn
        path = out / "figures" / f"{salt}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(svg(canvas), encoding="utf-8")
        pyplot.close(canvas)
    return {
        "title": figure.title,
        "caption": figure.caption,
        "kind": figure.kind,
        "wide": sum(axes.get_visible() for axes in canvas.axes) > 1,
        "file": f"figures/{salt}.svg",
        "sha256": sha256(path),
        "alt": f"{figure.title}. {alt}",
        **extra,
    }


def svg(canvas: Canvas) -> str:
    """The picture as text: no date, no trailing blanks, the same for the same data."""
    held = io.StringIO()
    canvas.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in held.getvalue().splitlines()) + "\n"

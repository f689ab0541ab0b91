"""What a study says about its tables, figures and claims."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from methods.study.spec_model import SpecModel


def told_apart_by(*keys: str, default: str) -> Discriminator:
    """A union whose members are told apart by which of `keys` is present, so that errors name one member only."""

    def tag(value: Any) -> str:
        present = value if isinstance(value, dict) else getattr(value, "__dict__", {})
        return f"<{next((key for key in keys if key in present), default)}>"

    return Discriminator(tag)


class MetricColumn(SpecModel):
    """A column of measured cells: mean ± 95 % interval over seeds."""

    metric: str
    """Name of the metric, for example `perplexity/wikipedia.test`."""
    label: str | None = None
    setting: str | None = None
    """Take the cells of this setting; without it every setting has rows of its own."""
    digits: int = Field(3, ge=0, le=12)
    """Decimal places."""
    scale: float = 1.0
    """The value is shown multiplied by this (100 for percent)."""
    relative_to: str | None = None
    """Show the paired difference to this variant instead of the value."""
    over: Literal["seeds", "units"] = "seeds"
    """What the interval is taken over: seeds, or the metric's single values (text windows, replicates)."""
    tolerance: float | None = Field(None, ge=0)
    """How far a cell may move, in the metric's unit, before CI calls it drift where bits cannot be compared."""


class PaperColumn(SpecModel):
    """A column of the paper's own figures, beside ours."""

    paper: str
    """Heading: what the paper measured (its model and data are seldom ours)."""
    source: str
    """Table, figure or section of the paper."""
    values: dict[str, float | str]
    """Variant (or `setting/variant`) → the paper's figure."""
    from_memory: bool = False
    """The figure could not be checked against the paper's text; the table marks it."""


Column = Annotated[
    Union[Annotated[MetricColumn, Tag("<metric>")], Annotated[PaperColumn, Tag("<paper>")]],
    told_apart_by("paper", default="metric"),
]


class Table(SpecModel):
    """One table: rows are variants (in settings), columns are metrics."""

    title: str
    caption: str | None = None
    rows: list[str] = ["*"]
    """Patterns of variants, in the study's order."""
    settings: list[str] = ["*"]
    columns: list[Column]
    notes: dict[str, str] = {}
    """Variant → footnote."""


class Figure(SpecModel):
    """One plot, drawn from metrics or from the runs' histories."""

    title: str
    caption: str | None = None
    kind: Literal["scatter", "bars", "curves", "boxes", "heatmap", "images"]
    """scatter: two metrics per variant (a Pareto plot); bars: one metric with intervals;
    curves: two columns of `history.jsonl`; boxes: the metric's values over replicates;
    heatmap: a third column of `history.jsonl` over two others (a phase diagram), one panel per variant;
    images: PNG files that the first seed's run keeps in `pictures/`, one row per variant."""
    x: str | None = None
    """scatter: metric; curves and heatmap: history column."""
    y: str
    """The metric, or history column, on the vertical axis; images: the pictures' names, `*` for all."""
    value: str | None = None
    """heatmap: the history column that the colour shows."""
    x_label: str | None = None
    y_label: str | None = None
    value_label: str | None = None
    x_log: bool = False
    y_log: bool = False
    value_log: bool = False
    scale: float = 1.0
    """bars, boxes and heatmap: values are shown multiplied by this (100 for percent)."""
    rows: list[str] = ["*"]
    settings: list[str] = ["*"]
    ratio_to: str | None = None
    """boxes: divide each replicate's value by this variant's."""
    ratio_of: str | None = None
    """boxes: the other way round, this variant's value divided by each other's."""
    fit: Literal["log", "power", "scaling"] | None = None
    """curves: overlay the least-squares fit y = a + b ln x, or y = c x^p, and show the other one as rejected;
    scaling: least squares of ln y on ln x, whose exponent stands in the caption."""
    fit_from: float | None = Field(None, gt=0)
    """curves: leave out smaller x in the fit."""
    reference: dict[str, float] = {}
    """Lines at a value: what they are (for example the paper's figure with its source) → value, as shown.

    `<setting>/<text>` is drawn in that setting's panel only.
    """

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Figure:
        if self.kind in ("scatter", "curves", "heatmap") and self.x is None:
            raise ValueError(f"{self.kind} needs x")
        if self.kind == "heatmap" and self.value is None:
            raise ValueError("heatmap needs value")
        belongs = {
            "fit": "curves",
            "fit_from": "curves",
            "ratio_to": "boxes",
            "ratio_of": "boxes",
            "value": "heatmap",
            "value_label": "heatmap",
        }
        for field, kind in belongs.items():
            if getattr(self, field) is not None and self.kind != kind:
                raise ValueError(f"{field} belongs to {kind}, not to {self.kind}")
        if self.ratio_to and self.ratio_of:
            raise ValueError("give ratio_to or ratio_of, not both")
        return self


Over = Literal["seeds", "units", "counts"]
"""units: pair the metric's single values (text windows, replicates) instead of seeds.
counts: the metric is counted, not estimated, so every seed must give the same value, which is exact."""


class Ordering(SpecModel):
    """Every `better` variant beats every `than` variant on the metric, paired over seeds or units."""

    metric: str
    better: list[str]
    than: list[str]
    settings: list[str] = ["*"]
    over: Over = "seeds"
    margin: float = 0.0
    """The advantage must exceed this, in the metric's unit."""


class Equivalence(SpecModel):
    """Two variants differ by less than a tolerance: the whole interval lies inside it."""

    metric: str
    variant: str
    as_good_as: str
    tolerance: float = Field(gt=0)
    settings: list[str] = ["*"]
    over: Over = "seeds"
    one_sided: bool = True
    """Being better than the tolerance is no failure."""


class Band(SpecModel):
    """A variant's metric, with its whole interval, lies within a band."""

    metric: str
    variant: str
    low: float | None = None
    high: float | None = None
    settings: list[str] = ["*"]
    over: Literal["seeds", "counts"] = "seeds"

    @model_validator(mode="after")
    def _has_bound(self) -> Band:
        if self.low is None and self.high is None:
            raise ValueError("a band needs low, high or both")
        return self


Check = Annotated[
    Union[
        Annotated[Ordering, Tag("<better>")],
        Annotated[Equivalence, Tag("<as_good_as>")],
        Annotated[Band, Tag("<low>")],
    ],
    told_apart_by("better", "as_good_as", default="low"),
]
Checks = Annotated[
    list[Check],
    BeforeValidator(
        lambda v: v if isinstance(v, list) else [v],
        json_schema_input_type=Union[Check, list[Check]],
    ),
]


class Claim(SpecModel):
    """A sentence of the paper, its figure with its source, and what our cells must show."""

    text: str
    source: str
    paper: str | None = None
    """The paper's figure."""
    from_memory: bool = False
    """The figure could not be checked against the paper's text; the report marks it."""
    check: Checks = []
    untestable: str | None = None
    """Why it cannot be tested at this size; the verdict is then `not testable at this size`."""

    @model_validator(mode="after")
    def _checkable(self) -> Claim:
        if bool(self.check) == bool(self.untestable):
            raise ValueError("a claim has either `check` or `untestable` (with the reason)")
        return self

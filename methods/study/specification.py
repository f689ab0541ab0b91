"""The study file, typed.  One YAML is one study: data, base model, variants, measurements, tables, claims."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Literal, Union

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    create_model,
    field_validator,
    model_validator,
)

from methods.study.registry import MeasureParams, MethodParams, entries
from methods.study.reporting import Claim, Figure, Table, told_apart_by
from methods.study.spec_model import SpecModel

NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]*")
ROLES = ("train", "validation", "test", "calibration", "eval")
TIERS = ("quick", "full", "paper")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"'{value}' is no name: lower-case letters, digits and . + _ - only")
    return value


Name = Annotated[str, BeforeValidator(_name)]


Count = Annotated[int, Field(ge=1)]


class DataRef(SpecModel):
    """A split of a declared data set, and how much of it; plain text is short for `{set: …}`."""

    set: str
    """`<data set>.<split>`, for example `wikipedia.train`."""
    tokens: int | None = Field(None, ge=1)
    """Text: how many tokens are taken."""
    length: int | None = Field(None, ge=2)
    """Text: tokens in one window."""
    limit: int | None = Field(None, ge=1)
    """Images and tables: the first so many items of a seed-independent shuffle."""

    @model_validator(mode="after")
    def _one_window(self) -> DataRef:
        if self.tokens is not None and self.length is not None and self.tokens < self.length:
            raise ValueError(
                f"{self.tokens} tokens are less than one window of {self.length}; give more tokens or a shorter length"
            )
        return self

    @property
    def dataset(self) -> str:
        """The data set's name: all before the last dot."""
        return self.set.rpartition(".")[0] or self.set

    @field_validator("set")
    @classmethod
    def _has_split(cls, value: str) -> str:
        name, dot, split = value.rpartition(".")
        if not dot or not name or not split:
            raise ValueError(
                f"'{value}' names no split; write <data set>.<split>, for example wikipedia.train"
            )
        return value


Seeds = Annotated[
    Union[
        Annotated[Count, Tag("<count>")],
        Annotated[dict[str, Count], Tag("<pattern>")],
    ],
    Discriminator(lambda value: "<pattern>" if isinstance(value, dict) else "<count>"),
]
"""How many seeds: for every variant, or by pattern."""


def _as_mapping(key: str, written: Any):
    """Plain text is short for a mapping with one key; `written` is what a file may say."""
    return BeforeValidator(
        lambda value: {key: value} if isinstance(value, str) else value,
        json_schema_input_type=written,
    )


DataRefOrName = Annotated[DataRef, _as_mapping("set", Union[str, DataRef])]
DataRefs = Annotated[
    list[DataRefOrName],
    BeforeValidator(
        lambda v: v if isinstance(v, list) else [v],
        json_schema_input_type=Union[str, DataRef, list[Union[str, DataRef]]],
    ),
]
Data = dict[Literal[ROLES], DataRefs]


class HubBase(SpecModel):
    """Any causal language model of the Hugging Face hub, or by its `kind` another text model."""

    huggingface: str
    """`organisation/name`."""
    revision: str = "main"
    """A commit is reproducible; a branch name is not, and is recorded as such."""
    kind: Literal["encoder", "seq2seq"] | None = None
    """encoder (BERT) or seq2seq (T5); left out: a causal language model."""


class PathBase(SpecModel):
    """A model directory on this machine (config.json and safetensors)."""

    path: str
    kind: Literal["encoder", "seq2seq"] | None = None
    """As for a model of the hub."""


class NamedBase(SpecModel):
    """A model declared in `configs/models/<name>.yaml`; plain text is short for this."""

    name: Name


Base = Annotated[
    Union[
        Annotated[NamedBase, Tag("<name>")],
        Annotated[HubBase, Tag("<huggingface>")],
        Annotated[PathBase, Tag("<path>")],
    ],
    told_apart_by("huggingface", "path", default="name"),
    _as_mapping("name", Union[str, NamedBase, HubBase, PathBase]),
]


class Paper(SpecModel):
    """The paper that the study reproduces."""

    title: str
    arxiv: str | None = None
    venue: str | None = None
    code: str | None = None
    """Repository and commit of the published code that was read."""


class Setting(SpecModel):
    """One context (data, base model) in which every variant runs."""

    label: str | None = None
    base: Base | None = None
    data: Data = {}
    seeds: int | None = Field(None, ge=1)
    methods: dict[str, dict[str, Any]] = {}
    """Parameters that every step of a method takes in this setting: `{large_batch: {network: f1}}`."""
    only: list[str] = ["*"]
    """Patterns of the variants that run in this setting."""
    measure: list[str] = ["*"]
    """Patterns of the study's measures that are taken in this setting."""


class TierSpec(SpecModel):
    """What a tier changes.  Mappings are merged key by key into the study, everything else replaces."""

    seeds: Seeds | None = None
    only: list[str] = ["*"]
    """Patterns of variants that run in this tier."""
    settings: list[str] = ["*"]
    """Patterns of settings that run in this tier."""
    base: Base | None = None
    data: Data = {}
    methods: dict[str, dict[str, Any]] = {}
    """`{awq: {grid: 10}}` sets grid in every awq step."""
    measure: dict[str, dict[str, Any]] = {}
    """`{perplexity: {windows: 4}}` likewise for measures."""
    needs: str | None = None
    """What a machine must have for this tier, in one sentence; shown when it is missing."""


class Notes(SpecModel):
    """Prose that the report shows with the study."""

    summary: str | None = None
    fidelity: list[str] = []
    """Where this follows the paper, where its published code, and what was chosen."""
    defects: list[str] = []
    """Defects of the published code that are avoided, each with the test or variant that shows it."""
    caveats: list[str] = []


class StudyBase(SpecModel):
    """A study before the union over registered methods and measures is filled in (see `study_type`)."""

    study: Name
    title: str
    paper: Paper | None = None
    notes: Notes = Notes()
    base: Base | None = None
    data: Data = {}
    settings: dict[Name, Setting] = {}
    variants: dict[Name, Any]
    measure: list[Any] = []
    seeds: Seeds = 1
    """How many seeds; `{"*": 3, "*-pc": 1}` takes the last pattern that matches the variant."""
    tiers: dict[Literal[TIERS], TierSpec] = {}
    ranks: dict[str, list[str]] = {}
    """Metric → patterns of the variants that are ranked on it, unit by unit; tables and claims know it then as
    `rank/<metric>`."""
    tables: dict[Name, Table] = {}
    figures: dict[Name, Figure] = {}
    claims: dict[Name, Claim] = {}

    @model_validator(mode="after")
    def _has_variants(self) -> StudyBase:
        if not self.variants:
            raise ValueError("a study needs at least one variant")
        return self


class VariantSpec(SpecModel):
    """A chain of steps and, where it differs from the study's, its data."""

    label: str | None = None
    control: bool = False
    """A control: dense, random, an equal-budget baseline, an oracle."""
    steps: list[Any]
    data: Data = {}


@cache
def study_type() -> type[StudyBase]:
    """The study model whose steps are a discriminated union over everything registered."""

    def union(kind: str, base: type) -> Any:
        types = tuple(entry.params for entry in entries(kind).values())
        if len(types) < 2:
            return types[0] if types else base
        return Annotated[Union[types], Field(discriminator=kind)]

    step = union("method", MethodParams)
    measures = union("measure", MeasureParams)
    measure = Annotated[measures, _as_mapping("measure", Union[str, measures])]
    variant = create_model("Variant", __base__=VariantSpec, steps=(list[step], ...))
    variants = dict[
        Name,
        Annotated[
            variant,
            BeforeValidator(
                lambda v: {"steps": v} if isinstance(v, list) else v,
                json_schema_input_type=Union[list[step], variant],
            ),
        ],
    ]
    return create_model(
        "Study",
        __base__=StudyBase,
        __doc__=StudyBase.__doc__,
        variants=(variants, ...),
        measure=(list[measure], []),
    )

"""What a study may say about architecture search (no torch here)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from methods.search.choices import Choice, Product
from methods.study.errors import RetrofitError
from methods.study.registry import MethodParams, register
from methods.study.spec_model import SpecModel

Options = Annotated[list[int], Field(min_length=1)]
Shrink = Annotated[
    int, Field(ge=1, description="Images are averaged over squares of so many pixels first.")
]


class CellSpace(SpecModel):
    """Four convolutions on each of three edges of two kinds of cells: 4096 architectures."""

    kind: Literal["cell"] = "cell"
    channels: int = Field(32, ge=1, description="Of every cell.")
    shrink: Shrink = 1


class MacroSpace(SpecModel):
    """Channels and kernels of four convolutions; the defaults are the paper's 6561 architectures."""

    kind: Literal["macro"] = "macro"
    widths: list[Options] = Field(
        [[8, 16, 32], [16, 32, 64], [32, 64, 128], [64, 128, 256]],
        min_length=4,
        max_length=4,
        description="Options of each layer's channels.",
    )
    kernels: Options = Field([3, 5, 7], description="Options of every layer's kernel: odd.")
    shrink: Shrink = 1

    @model_validator(mode="after")
    def _searchable(self) -> MacroSpace:
        for number, options in enumerate(self.widths, start=1):
            _checked(f"width.{number}", options)
        _checked("kernels", self.kernels)
        even = [kernel for kernel in self.kernels if kernel % 2 == 0]
        if even:
            raise ValueError(
                f"kernels {even} are even and have no centre on a pixel, so they are no centred slice "
                "of an odd one; choose odd kernels"
            )
        return self


class LanguageSpace(SpecModel):
    """A GPT over bytes: embedding, depth, and heads and MLP ratio of each block.

    The defaults are the paper's character-level space.
    """

    kind: Literal["language"] = "language"
    embeddings: Options = [96, 192, 384]
    heads: Options = [2, 4, 6]
    ratios: Annotated[list[int | float], Field(min_length=1)] = [2, 3, 4]
    depths: Options = [4, 5, 6]
    length: int = Field(256, ge=2, description="Bytes in a window.")

    @model_validator(mode="after")
    def _searchable(self) -> LanguageSpace:
        embedding, ratio = _checked("embeddings", self.embeddings), _checked("ratios", self.ratios)
        _checked("heads", self.heads)
        _checked("depths", self.depths)
        for width in self.embeddings:
            for heads in self.heads:
                if width % heads:
                    raise ValueError(
                        f"{heads} heads do not divide an embedding of {width}: every option of `heads` "
                        "must divide every option of `embeddings`"
                    )
        try:
            Product((embedding, ratio))
        except RetrofitError as error:
            raise ValueError(str(error)) from None
        return self


AnySpace = Annotated[CellSpace | MacroSpace | LanguageSpace, Field(discriminator="kind")]


class Recipe(SpecModel):
    """Training one architecture from scratch: AdamW, warm-up, cosine."""

    epochs: int = Field(6, ge=1, description="Passes over the training items.")
    batch: int = Field(64, ge=2)
    learning_rate: float = Field(2e-3, gt=0, description="At its highest, after the warm-up.")
    warm_up: float = Field(0.1, ge=0, lt=1, description="Share of the updates; a cosine follows.")
    weight_decay: float = Field(0.05, ge=0, description="Of matrices and filters only.")
    clip_norm: float | None = Field(1.0, gt=0, description="Bound on the gradient's norm.")


class SearchStep(MethodParams):
    """What the steps of a search have in common: data, and which items are held out of it."""

    roles: ClassVar[tuple[str, ...]] = ("train",)
    optional_roles: ClassVar[tuple[str, ...]] = ("validation", "test")

    validation: float = Field(
        0.2,
        ge=0.01,
        lt=1,
        description="Share of the training items held out of every training, where the study has no "
        "data of the role `validation`. On them curves are drawn and random search selects.",
    )


@register("methods.search.tanglenas:apply", paper="2312.10440")
class TangleNAS(SearchStep):
    """Search an architecture by gradients in a super-network whose options share entangled weights.

    Leaves the super-network with the architecture found; `retrain_architecture` trains that one.
    """

    needs_base: ClassVar[bool] = False

    method: Literal["tanglenas"] = "tanglenas"
    space: AnySpace = Field(CellSpace(), description="Which decisions there are.")
    sampler: Literal["darts", "darts_sparsemax", "drnas", "gdas", "spos"] = Field(
        "drnas",
        description="From architecture parameters to weights; spos: uniform, for `two_stage_search`.",
    )
    sharing: Literal["entangled", "outputs", "separate"] = Field(
        "entangled",
        description="entangled: one superposed weight; outputs: one weight, outputs mixed; separate: "
        "each option has weights of its own, as in DARTS.",
    )
    portion: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the items for the weights; the rest is for the choices.",
    )
    epochs: int = Field(100, ge=1, description="Passes over the items of the weights.")
    batch: int = Field(64, ge=2)
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Of the weights.")
    learning_rate: float = Field(0.025, gt=0, description="At the beginning.")
    last_learning_rate: float = Field(0.001, ge=0, description="At the end of the cosine.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of sgd.")
    weight_decay: float = Field(5e-4, ge=0)
    clip_norm: float | None = Field(5.0, gt=0, description="Bound on the gradient's norm.")
    architecture_learning_rate: float = Field(3e-4, gt=0, description="Adam, betas .5 and .999.")
    architecture_weight_decay: float = Field(1e-3, ge=0)
    curve_samples: int = Field(
        8, ge=1, description="spos: candidates whose best one is the curve's, after each epoch."
    )
    calibration_batches: int = Field(
        8, ge=1, description="Batches that a sub-network's batch statistics come from."
    )


@register("methods.search.two_stage:apply")
class TwoStageSearch(SearchStep):
    """Choose an architecture by the accuracy that it has with the weights of a super-network
    (SPOS): random candidates, or evolution. The items are those that the weights did not see.
    """

    follows: ClassVar[tuple[str, ...]] = ("tanglenas",)
    method: Literal["two_stage_search"] = "two_stage_search"
    strategy: Literal["random", "evolution"] = "evolution"
    population: int = Field(30, ge=2, description="Candidates in the first round.")
    rounds: int = Field(4, ge=1, description="Generations; random search draws as many in all.")
    parents: int = Field(10, ge=2, description="Best candidates that a generation descends from.")
    crossovers: int = Field(10, ge=0, description="Children of two parents in a generation.")
    mutations: int = Field(10, ge=0, description="Children of one parent in a generation.")
    mutation: float = Field(0.2, gt=0, le=1, description="Chance that a decision is drawn anew.")
    items: int = Field(1000, ge=1, description="So many held-out items judge a candidate, at most.")
    calibration_batches: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> TwoStageSearch:
        if self.parents > self.population:
            raise ValueError(f"parents {self.parents}: at most the population, {self.population}")
        if self.crossovers + self.mutations < 1:
            raise ValueError("a generation needs children: crossovers or mutations of 1 or more")
        return self


@register("methods.search.retrain:apply")
class RetrainArchitecture(SearchStep):
    """Train the architecture that a search found, from fresh weights."""

    follows: ClassVar[tuple[str, ...]] = ("tanglenas", "two_stage_search")
    method: Literal["retrain_architecture"] = "retrain_architecture"
    recipe: Recipe = Recipe()
    after: int | None = Field(
        None, ge=1, description="The architecture found after so many epochs; null: the last one."
    )


@register("methods.search.random_search:apply")
class RandomArchitectures(SearchStep):
    """Train random architectures from scratch, as many as a budget pays: random search, and the
    space's mean. The budget is counted in multiply-accumulates of the super-network.
    """

    needs_base: ClassVar[bool] = False

    method: Literal["random_architectures"] = "random_architectures"
    space: AnySpace = CellSpace()
    recipe: Recipe = Recipe()
    budget: float = Field(
        12, gt=0, description="Epochs of the super-network that all trainings together may cost."
    )
    least: int = Field(2, ge=1, description="Candidates at least, whatever they cost.")


@register("methods.search.random_search:choose")
class ChooseArchitecture(SearchStep):
    """Of trained random architectures, the best on held-out items; or none, but their mean."""

    follows: ClassVar[tuple[str, ...]] = ("random_architectures",)
    method: Literal["choose_architecture"] = "choose_architecture"
    by: Literal["validation", "mean"] = "validation"


def _checked(name: str, options: list) -> Choice:
    try:
        choice = Choice(name, tuple(options))
    except RetrofitError as error:
        raise ValueError(str(error)) from None
    if min(options) <= 0:
        raise ValueError(f"{name}: sizes are positive, found {options}")
    return choice

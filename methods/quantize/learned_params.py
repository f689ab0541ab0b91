"""What a study may say about learned rounding (no torch here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from methods.quantize.base_params import GridParams
from methods.study.spec_model import SpecModel

RATES = {
    "adaround": 1e-2,
    "autoround": 5e-3,
    "plus_minus_one": 5e-3,
    "full_range": 1e-2,
    "flexround": 2e-3,
    "power": 5e-3,
}
"""Learning rates of Adam where a study gives none; AutoRound with signSGD has 1 / iterations."""


class Selection(SpecModel):
    """Which weights are learned; the others keep their nearest code."""

    rule: Literal["all", "random", "ambiguous", "importance"] = Field(
        "all",
        description="ambiguous: nearest to the middle between two codes. importance: largest "
        "|w - nearest|.",
    )
    ratio: float = Field(1.0, gt=0, le=1, description="Share of the weights that are learned.")


class MixedPrecision(SpecModel):
    """Bits by layer under a budget, by how much a layer's rounding costs."""

    importance: Literal["taylor", "fisher", "sqnr", "random"] = Field(
        "fisher",
        description="taylor: sum |g dw|. fisher: half the sum of g^2 dw^2. sqnr: relative squared "
        "error of the weights. g: gradient of the loss on the model's own predictions.",
    )
    candidates: list[Literal[2, 3, 4, 8]] = Field([2, 3, 4, 8], min_length=2)
    average_bits: float = Field(3.0, ge=2, le=8)

    @model_validator(mode="after")
    def _possible(self) -> MixedPrecision:
        if len(set(self.candidates)) < len(self.candidates):
            raise ValueError(f"candidates are different widths, found {self.candidates}")
        if not min(self.candidates) <= self.average_bits <= max(self.candidates):
            raise ValueError(
                f"average_bits {self.average_bits} lies outside the candidates {self.candidates}"
            )
        return self


class Finish(SpecModel):
    """A last pass over the whole network: all scales learn together to give the float model's logits
    (Kullback-Leibler divergence); codes stay. After EfficientQAT's second phase (2407.11062).
    """

    epochs: int = Field(1, ge=1, description="Passes over the calibration data.")
    learning_rate: float = Field(2e-3, gt=0, description="Of the logarithm of the scales, by Adam.")
    batch: int = Field(1, ge=1)


class LearnedRounding(GridParams):
    """Learn how each weight is rounded by gradients, so that blocks (or layers) give what they gave
    before, on a small calibration set.

    One frame for AdaRound, BRECQ (granularity block), QDrop (inputs mixed), FlexRound, AutoRound and
    PowerQuant / NUPES; defaults are the best practice found here.
    """

    roles: ClassVar[tuple[str, ...]] = ("calibration",)
    optional_roles: ClassVar[tuple[str, ...]] = ("test",)

    method: Literal["learned_rounding"] = "learned_rounding"
    parametrisation: Literal[
        "rtn", "adaround", "autoround", "plus_minus_one", "full_range", "flexround", "power"
    ] = Field("autoround", description="The variable; rtn: none, round to nearest.")
    granularity: Literal["layer", "block"] = "block"
    loss: Literal["l2", "l1", "huber", "cosine", "normalised_l2", "fisher"] = "l2"
    inputs: Literal["fp", "quantised", "mixed"] = Field(
        "quantised",
        description="What a block is fed: features of the float network, of the network as quantised "
        "so far, or elementwise either (QDrop).",
    )
    drop_probability: float = Field(
        0.5, gt=0, lt=1, description="inputs mixed: chance that an element is the quantised one."
    )
    optimizer: Literal["adam", "adamw", "sgd", "sgd_momentum", "signsgd"] = "signsgd"
    learning_rate: float | None = Field(
        None, gt=0, description="null: 1 / iterations for signsgd, else by variable."
    )
    range_learning_rate: float | None = Field(None, gt=0, description="null: learning_rate.")
    decay: Literal["constant", "linear", "cosine"] = "linear"
    iterations: int = Field(50, ge=1, description="Updates for each block or layer.")
    batch: int = Field(4, ge=1, description="Windows or images in one update.")
    learn_range: bool = Field(True, description="Learn scales (AutoRound: the range) too.")
    range: Literal["minmax", "mse", "output"] = Field(
        "minmax", description="Span of a group's first grid; output: with start gptq only."
    )
    start: Literal["nearest", "gptq"] = Field(
        "nearest", description="gptq: refine the column solver's rounding (language models)."
    )
    warm_up: float = Field(0.2, ge=0, lt=1, description="AdaRound: share without regularisation.")
    regularisation: float = Field(0.01, ge=0, description="AdaRound's lambda.")
    exponent: float = Field(0.5, gt=0, le=1.5, description="power: a of sign(w)|w|^a.")
    learn_exponent: bool = Field(False, description="power: learn it, and a shift of each weight.")
    selection: Selection = Selection()
    augmentation: Literal["none", "gaussian", "mixup", "token_drop"] = Field(
        "none", description="Of the features that enter a block; the target is recomputed."
    )
    augmentation_strength: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Noise in standard deviations, share of tokens, or mixing weight.",
    )
    noise_calibration: bool = Field(
        False, description="Calibrate on random tokens or pixels instead of the data."
    )
    keep_dense: list[str] = Field(
        [],
        description="Patterns of layers (dotted names) that stay as they are; listed in the notes.",
    )
    eight_bits: list[str] = Field([], description="Patterns of layers that get 8 bits.")
    mixed_precision: MixedPrecision | None = None
    finish: Finish | None = None
    compute_dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Forward and backward passes; variables and losses are float32."
    )

    @model_validator(mode="after")
    def _consistent(self) -> LearnedRounding:
        if self.zero_point == "published_code":
            raise ValueError("learned_rounding has zero in the range: leave out zero_point")
        if self.range == "output" and self.start != "gptq":
            raise ValueError("range: output needs start: gptq")
        if self.start == "gptq" and self.parametrisation == "power":
            raise ValueError("power grids have no column solver: start: nearest")
        if self.start == "gptq" and (self.mixed_precision or self.eight_bits):
            raise ValueError(
                "the column solver rounds every layer to `bits`: start: nearest for "
                "mixed_precision and eight_bits"
            )
        if self.loss == "fisher" and self.granularity == "layer":
            raise ValueError("loss fisher weighs the outputs of blocks: granularity: block")
        if self.parametrisation == "power" and (self.mixed_precision or self.finish):
            raise ValueError("power grids take neither mixed_precision nor finish")
        if self.learn_exponent and self.parametrisation != "power":
            raise ValueError("learn_exponent belongs to parametrisation: power")
        if self.augmentation == "mixup" and self.batch < 2:
            raise ValueError("mixup needs a batch of 2 or more")
        return self

    @property
    def rate(self) -> float:
        """The learning rate of the rounding variable."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.optimizer == "signsgd":
            return 1 / self.iterations
        return RATES.get(self.parametrisation, 1e-2)

"""What a study may say about weight quantisation (no torch here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from methods.quantize.base_params import GridParams
from methods.quantize.learned_params import LearnedRounding
from methods.study.registry import register
from methods.study.spec_model import SpecModel

Projection = Literal["q", "k", "v", "o", "gate", "up", "down", "fc1", "fc2"]


class CalibratedParams(GridParams):
    """What methods that look at activations share."""

    roles: ClassVar[tuple[str, ...]] = ("calibration",)

    compute_dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16",
        description="Forward passes of calibration and search; statistics and losses are float32.",
    )


@register("methods.quantize.rtn:apply")
class RTN(GridParams):
    """Round every weight of the decoder blocks to the nearest point of its group's grid.

    The baseline of AWQ and GPTQ; needs no data.
    """

    stochastic: ClassVar[bool] = False

    method: Literal["rtn"] = "rtn"
    range: Literal["minmax", "mse"] = Field(
        "minmax",
        description="minmax: the grid spans the group's weights. mse: the span is shrunk to where "
        "the rounding error sum |w - q(w)|^2.4 is least (as in GPTQ's code).",
    )


class Clip(SpecModel):
    """AWQ's search for the largest magnitude to keep, per output row and group."""

    enabled: bool = True
    grid: int = Field(20, ge=2, description="Steps between no shrinking and none of it left.")
    max_shrink: float = Field(0.5, gt=0, lt=1, description="Share of the maximum to cut at most.")
    skip: list[Projection] = Field(
        ["q", "k"], description="Projections left alone: their errors meet in a product."
    )
    tokens: int | None = Field(
        512, ge=1, description="Calibration tokens, evenly spread, that weigh the error; null: all."
    )


@register("methods.quantize.awq:apply", paper="2306.00978")
class AWQ(CalibratedParams):
    """Activation-aware weight quantisation: scale salient input channels up before rounding, and
    the layer before them down, by the power of the mean activation that costs least.

    The defaults are the paper's and its code's, except that the grid contains zero.
    """

    method: Literal["awq"] = "awq"
    grid: int = Field(20, ge=2, description="Exponents tried, r = 0, 1/grid, ….")
    duo: bool | Literal["both"] = Field(
        False,
        description="false: scales x^r (the paper). true: x^r / w^(1-r) (AutoAWQ). both: half of "
        "the grid each (llm-compressor).",
    )
    include_identity: bool = Field(
        True, description="Also try no scaling at all, so that the result never loses to RTN."
    )
    include_r1: bool = Field(False, description="Let the grid of exponents end at 1.")
    clip: Clip = Clip()
    gqa_v_o: Literal["skip", "exact"] = Field(
        "skip",
        description="Value to output projection when query heads share value heads. skip: no "
        "scale, as published. exact: one scale for all heads that share, which leaves the float "
        "model unchanged.",
    )
    inputs: Literal["fp", "quantized"] = Field(
        "fp",
        description="What the next block is calibrated on: features of the float model (the "
        "paper) or of the model as quantised so far.",
    )
    search_tokens: int | None = Field(
        2048,
        ge=1,
        description="Calibration tokens on which the losses of a nonlinear module are compared; "
        "null: all. Activation statistics and linear layers' losses always use all.",
    )
    screen_tokens: int | None = Field(
        512,
        ge=1,
        description="Compare all exponents on so many of the search tokens first and only the "
        "best `shortlist` on all of them; null: every exponent on all of them.",
    )
    shortlist: int = Field(4, ge=1, description="Exponents that pass the screening.")
    scales: bool = Field(True, description="false: no scales, only clip (and quantize).")
    quantize: bool = Field(
        True, description="false: fold the scales and clip, but return a float model."
    )

    @model_validator(mode="after")
    def _consistent(self) -> AWQ:
        if not self.quantize and self.inputs == "quantized":
            raise ValueError("inputs: quantized needs quantize: true")
        if not (self.scales or self.clip.enabled):
            raise ValueError("awq without scales and without clip changes nothing: use method rtn")
        return self


@register("methods.quantize.gptq:apply", paper="2210.17323")
class GPTQ(CalibratedParams):
    """Round column by column and let the columns that are left make up for the error, as the
    second moments of the layer's inputs tell.
    """

    method: Literal["gptq"] = "gptq"
    act_order: bool = Field(True, description="Columns with the largest inputs first.")
    static_groups: bool = Field(
        True,
        description="Fix every group's grid before the first column. Needed for act_order in "
        "groups: the columns of a group are then not taken in a row.",
    )
    range: Literal["minmax", "mse", "output"] = Field(
        "minmax",
        description="Span of a group's grid. mse: shrunk to the least weight error. output: "
        "shrunk to the least error of the layer's output (an extension).",
    )
    damping: float = Field(
        0.01, gt=0, description="Added to the Hessian's diagonal, as a share of its mean."
    )
    block_columns: int = Field(
        128, ge=1, description="Columns between two updates of the rest; does not change results."
    )
    order: Literal["block", "layer"] = Field(
        "block",
        description="block: all layers of a decoder block see the inputs of its float form. "
        "layer: each sees its inputs after the layers before it were quantised (true sequential).",
    )

    @model_validator(mode="after")
    def _order_and_groups(self) -> GPTQ:
        if self.act_order and self.group_size != -1 and not self.static_groups:
            raise ValueError(
                "act_order with groups needs static_groups: true (or group_size: -1, or act_order: false)"
            )
        if self.range == "output" and not self.static_groups:
            raise ValueError("range: output needs static_groups: true")
        return self


@register("methods.quantize.salient:apply", paper="2306.00978")
class Salient(CalibratedParams):
    """The paper's analysis of salient channels: keep a small share of the input channels in full
    precision, or scale them up by a constant, and round the rest.

    An experiment, not a format: the result is a float model of simulated quantisation.
    """

    method: Literal["salient"] = "salient"
    action: Literal["keep", "scale"] = Field(
        "keep", description="keep: full precision (Table 1). scale: times s (Table 2)."
    )
    by: Literal["activation", "weight", "random"] = Field(
        "activation",
        description="What makes a channel salient: mean |x|, norm of its weights, or chance.",
    )
    fraction: float = Field(0.01, ge=0, le=1, description="Share of the input channels.")
    scale: float = Field(2.0, ge=1, description="s, when action is scale.")


register("methods.quantize.learned_rounding:apply", paper="2308.07662")(LearnedRounding)

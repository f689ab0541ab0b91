"""What a study may say about training through the rounding (no torch here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from methods.study.registry import MethodParams, register

FLOAT_BITS = 32


class QuantizedTraining(MethodParams):
    """What both steps share: AdamW on labelled images, in float32."""

    roles: ClassVar[tuple[str, ...]] = ("train",)
    optional_roles: ClassVar[tuple[str, ...]] = ("validation",)

    batch: int = Field(560, ge=2)
    weight_decay: float = Field(0.05, ge=0, description="Of matrices and filters only.")
    clip_norm: float | None = Field(None, gt=0, description="Bound on the gradient's norm.")
    augment: bool = Field(False, description="Shift each image at random, and mirror half of them.")
    shift: int = Field(2, ge=0, description="The most pixels that `augment` shifts an image by.")
    distill: bool = Field(
        True,
        description="Add the cross-entropy to the probabilities of the float network, which is in "
        "evaluation mode. The teacher is the network before `ofq`.",
    )


@register("methods.quantize_aware.ofq:apply", paper="2302.02210")
class OFQ(QuantizedTraining):
    """Train a float network with rounded weights and activations: LSQ, or StatsQ and one matrix for
    query and key (oscillation-free quantization), or two cures of oscillation to compare with.

    The defaults are the paper's, for DeiT-T with 2 bits.
    """

    method: Literal["ofq"] = "ofq"
    bits: int = Field(
        2, description="Of weights and activations: 2 to 8; 32: nothing is rounded, a control."
    )
    activation_bits: int | None = Field(
        None, description="Of activations, where they have others than the weights."
    )
    edge_bits: int = Field(
        8, ge=2, le=8, description="Of the first and the last layer, which LSQ rounds."
    )
    weights: Literal["statsq", "lsq"] = Field(
        "statsq", description="statsq: the scale is twice the row's mean magnitude. lsq: learned."
    )
    activations: Literal["lsq", "lsq_plus"] = Field(
        "lsq_plus", description="lsq_plus: with a learned shift before and after the rounding."
    )
    query_key: Literal["plain", "published", "exact"] = Field(
        "published",
        description="plain: query and key are rounded apart. published: their product is rounded, "
        "without biases. exact: with the term that the query's bias adds.",
    )
    stabilise: Literal["none", "freeze", "dampen"] = Field(
        "none", description="Cures of oscillation by Nagel et al. (2203.11086)."
    )
    freeze_above: tuple[float, float] = Field(
        (0.1, 0.011),
        strict=False,
        description="freeze: the frequency at which a weight is frozen, at the first and at the "
        "last update; a cosine between.",
    )
    dampening: float = Field(
        0.1, gt=0, description="dampen: weight of the loss at the last update; a cosine from 0."
    )
    epochs: int = Field(300, ge=1)
    learning_rate: float = Field(5.47e-4, gt=0, description="At its highest, after the warm-up.")
    final_rate: float = Field(1e-5, gt=0, description="At the end of the cosine.")
    warm_up: float = Field(0.0167, ge=0, lt=1, description="Share of the updates.")

    @field_validator("bits", "activation_bits")
    @classmethod
    def _width(cls, bits: int | None) -> int | None:
        if bits == 1:
            raise ValueError(
                "1 bit: StatsQ's grid is broken there (weights below -s become -1.5 s) and a sign has no "
                "gradient; allowed are 2 to 8, or 32"
            )
        if bits is not None and bits != FLOAT_BITS and not 2 <= bits <= 8:
            raise ValueError(f"{bits} bits: allowed are 2 to 8, or 32 for no rounding")
        return bits

    @model_validator(mode="after")
    def _consistent(self) -> OFQ:
        if self.stabilise == "freeze" and self.query_key != "plain":
            raise ValueError(
                "freeze sets weights, and the product of query and key is no weight: query_key: plain"
            )
        if self.bits == FLOAT_BITS and self.activation_bits not in (None, FLOAT_BITS):
            raise ValueError("bits 32 rounds nothing: leave out activation_bits")
        if self.stabilise != "none" and self.bits == FLOAT_BITS:
            raise ValueError(f"stabilise {self.stabilise}: nothing is rounded with 32 bits")
        if not all(0 < level < 1 for level in self.freeze_above):
            raise ValueError(f"freeze_above are frequencies in 0 … 1, not {self.freeze_above}")
        if self.final_rate > self.learning_rate:
            raise ValueError(
                f"final_rate {self.final_rate} is above learning_rate {self.learning_rate}"
            )
        return self

    def check_base(self, config: dict) -> None:
        """Refuse a base without images to see, or quantised already."""
        from methods.study.errors import RetrofitError

        if "model_type" in config:
            raise RetrofitError(
                f"ofq trains vision networks, and the base is a language model ({config['model_type']})"
            )
        if config.get("quantized"):
            raise RetrofitError("the base is quantised already; ofq needs float weights")


@register("methods.quantize_aware.anneal:apply", paper="2302.02210")
class Anneal(QuantizedTraining):
    """Go on after `ofq` at a constant low rate, where only weights near a rounding threshold move
    (confidence-guided annealing), or, as the control, all of them.
    """

    follows: ClassVar[tuple[str, ...]] = ("ofq", "anneal")
    method: Literal["anneal"] = "anneal"
    boundary: float | None = Field(
        0.005,
        ge=0,
        description="Weights further than this from a threshold, in steps, stay frozen; null: none "
        "is frozen, the control with the same additional epochs.",
    )
    product: Literal["masked", "published_code"] = Field(
        "masked",
        description="The product of query and key. masked: its gradient is dropped beyond the "
        "boundary. published_code: all of it stays, since the mask there is detached.",
    )
    epochs: int = Field(25, ge=1)
    learning_rate: float = Field(1e-5, gt=0, description="Constant; the last one of `ofq`.")

    @field_validator("boundary")
    @classmethod
    def _inside_half_a_step(cls, value: float | None) -> float | None:
        if value is not None and value >= 0.5:
            raise ValueError(
                f"a boundary of {value} steps: from 0.5 on a weight is near two thresholds at once, or to all; "
                "give less than 0.5, or null to freeze nothing"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Anneal:
        if self.boundary is None and self.product == "published_code":
            raise ValueError("product: published_code says nothing without a boundary")
        return self

"""What a study may say about linearising attention (no torch here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from methods.fit.params import LoRA, Tuning
from methods.study.registry import MethodParams, register


class LinearizeParams(MethodParams):
    """What all linearisations share."""

    roles: ClassVar[tuple[str, ...]] = ("train",)

    train: Tuning = Tuning()
    window: int = Field(64, ge=1, description="Keys that a query sees, itself included.")

    def check_base(self, config: dict) -> None:
        """Refuse an architecture whose attention cannot be linearised here."""
        from methods.linearize.bases import check_base

        check_base(config)


Gate = Literal[
    "gla", "hgrn2", "gsa", "mamba2", "mlstm", "gated_retention", "rwkv6", "none", "retention"
]


@register("methods.linearize.liger:apply", paper="2503.01496")
class Liger(LinearizeParams):
    """Softmax attention becomes alpha times a gated linear recurrence plus beta times attention over a
    sliding window, with the pretrained keys as gates, and is tuned end to end by adapters.
    """

    method: Literal["liger"] = "liger"
    gate: Gate = Field("gla", description="Row of the paper's Table 1; none: no gate.")
    gate_source: Literal["k", "q", "v", "projection"] = Field(
        "k", description="What the gate is made of. projection: a new, random one (an ablation)."
    )
    gate_normalizer: float | None = Field(
        None, gt=0, description="The log gate is divided by it; null: the structure's own."
    )
    gate_lower_bound: float = Field(0.0, ge=0, lt=1, description="gamma of HGRN2.")
    pool_size: int | None = Field(
        None,
        ge=1,
        description="Pool the gate's logits to so many a head (slots, for gsa); null: the head's "
        "width, which is what the published pooling comes to.",
    )
    feature_map: Literal["structure", "hedgehog"] = Field(
        "structure",
        description="structure: the softmax of the gate's row. hedgehog: learned (an ablation).",
    )
    alpha: float = Field(0.5, ge=0, description="Weight of the recurrence; 0: window only.")
    beta: float = Field(0.5, ge=0, description="Weight of the window; 0: recurrence only.")
    sinks: int = Field(
        0, ge=0, description="First tokens that every query sees besides its window (a baseline)."
    )
    normalize: bool = Field(
        False,
        description="Divide the recurrence by the sum of its weights (an extension): its output "
        "then does not grow with the context.",
    )
    full_attention_every: int | None = Field(
        None, ge=2, description="Leave every n-th block its softmax attention (Liger-H: 8)."
    )

    @field_validator("gate", mode="before")
    @classmethod
    def _nearest_gate(cls, value: object) -> object:
        from typing import get_args

        from methods.study.errors import choices

        if isinstance(value, str) and value not in get_args(Gate):
            raise ValueError(f"there is no gate '{value}'; {choices(value, get_args(Gate))}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Liger:
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("alpha 0 and beta 0 leave no attention at all")
        if self.alpha == 0 and (
            self.gate_source == "projection" or self.feature_map != "structure"
        ):
            raise ValueError("alpha 0 leaves no recurrence: gates and feature maps do nothing")
        if self.gate == "gsa" and self.feature_map == "hedgehog":
            raise ValueError("gsa reads raw queries and keys: feature_map hedgehog is not for it")
        if self.pool_size and self.gate != "gsa":
            raise ValueError("pool_size is for gsa: other gates decay every channel of a head")
        return self


@register("methods.linearize.lolcats:apply", paper="2410.10254")
class Lolcats(LinearizeParams):
    """LoLCATs, for comparison: learned feature maps take over beyond the window in one softmax; they
    learn first to give the attention's outputs, then adapters are tuned.
    """

    method: Literal["lolcats"] = "lolcats"
    feature_dim: int | None = Field(
        None,
        ge=1,
        description="Width of a learned map, which gives twice as many features; null: d.",
    )
    transfer_tokens: int = Field(
        32768, ge=0, description="Budget of the attention transfer; 0: none."
    )
    transfer_learning_rate: float = Field(1e-2, gt=0)
    train: Tuning = Tuning(
        tokens=32768,
        learning_rate=1e-4,
        weight_decay=0.0,
        lora=LoRA(alpha=16, targets=["q", "k", "v", "o"]),
    )


@register("methods.linearize.supra:apply", paper="2405.06640")
class Supra(LinearizeParams):
    """SUPRA, for comparison: a recurrence with fixed decays over learned ReLU features, no window."""

    method: Literal["supra"] = "supra"
    train: Tuning = Tuning(lora=LoRA(targets=["q", "k", "v", "o"]))

"""What a study may say about training classifiers and language models (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from methods.study.spec_model import SpecModel

Projection = Literal["q", "k", "v", "o", "gate", "up", "down"]


class LoRA(SpecModel):
    """Low-rank adapters, merged into the weights when training ends."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(8, gt=0, description="The update is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[Projection] = Field(["q", "k", "v"], min_length=1)


class Tuning(SpecModel):
    """Next-token training on windows of the role `train`. The defaults are Liger's code."""

    tokens: int = Field(65536, ge=0, description="Budget; 0 leaves the model as it is.")
    length: int = Field(512, ge=8, description="Tokens in a window; the paper has 1024.")
    batch: int = Field(1, ge=1, description="Windows in one update.")
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = Field(
        "constant",
        description="The published plateau rule never fires in its 2 400 updates: constant.",
    )
    warm_up: float = Field(0.0, ge=0, lt=1, description="Share of the updates.")
    weight_decay: float = Field(0.01, ge=0)
    clip_norm: float | None = Field(
        1.0,
        gt=0,
        description="Bound on the gradient; set, but never applied, in the published code.",
    )
    lora: LoRA | None = Field(LoRA(), description="null: only what the method adds is trained.")
    loss_on: Literal["all", "answer"] = Field(
        "all",
        description="answer: what follows `answer_after` in a document; one pack of documents.",
    )
    answer_after: str = "### Response:\n"
    compute_dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Frozen weights and features; what is trained stays float32."
    )
    gradient_checkpointing: bool = Field(
        False, description="Keep one block's features at a time, for a third more computing."
    )

    @model_validator(mode="after")
    def _at_least_one_update(self) -> Tuning:
        if 0 < self.tokens < self.batch * self.length:
            raise ValueError(
                f"{self.tokens} tokens are less than one update of {self.batch} windows of {self.length}"
            )
        return self

    @property
    def updates(self) -> int:
        """How many updates the budget pays."""
        return self.tokens // (self.batch * self.length)


class ClassifierTraining(SpecModel):
    """Training a network on labelled images: AdamW, warm-up, cosine."""

    epochs: int = Field(4, ge=1, description="Passes over the images.")
    batch: int = Field(128, ge=2)
    learning_rate: float = Field(2e-3, gt=0, description="At its highest, after the warm-up.")
    warm_up: float = Field(0.1, ge=0, lt=1, description="Share of the updates; a cosine follows.")
    weight_decay: float = Field(0.05, ge=0, description="Of matrices and filters only.")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augment: bool = Field(False, description="Shift each image at random, and mirror half of them.")
    shift: int = Field(2, ge=0, description="The most pixels that `augment` shifts an image by.")
    clip_norm: float | None = Field(1.0, gt=0, description="Bound on the gradient's norm.")
    precision: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="bfloat16: autocast; weights and optimiser stay float32."
    )

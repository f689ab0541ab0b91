"""What a study may say about training a classifier (no torch here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from methods.models.networks.params import NetworkSizes, VisionTransformerSizes
from methods.study.registry import MethodParams, register


@register("methods.train.classifier:apply")
class TrainClassifier(MethodParams):
    """Train an image classifier from scratch with AdamW: a base for what other methods change."""

    needs_base: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ("train",)

    method: Literal["train_classifier"] = "train_classifier"
    network: NetworkSizes = Field(VisionTransformerSizes(), description="Architecture and sizes.")
    epochs: int = Field(8, ge=1)
    batch: int = Field(128, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    warm_up: float = Field(0.1, ge=0, lt=1, description="Share of the updates; a cosine follows.")
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augment: bool = Field(False, description="Shift each image by up to 2 pixels and mirror half.")
    clip_norm: float | None = Field(1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="bfloat16: autocast; weights stay float32."
    )
    validation: float = Field(
        0.0, ge=0, lt=1, description="Share held out of the training set; it chooses nothing."
    )

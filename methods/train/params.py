"""What a study may say about training a base of its own (no torch here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from methods.fit.params import ClassifierTraining
from methods.models.networks.params import NetworkSizes, VisionTransformerSizes
from methods.study.registry import MethodParams, register


@register("methods.train.train_classifier:apply")
class TrainClassifier(MethodParams, ClassifierTraining):
    """Train an image classifier from scratch with AdamW: a base for what other methods change."""

    needs_base: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ("train",)
    optional_roles: ClassVar[tuple[str, ...]] = ("validation",)

    method: Literal["train_classifier"] = "train_classifier"
    network: NetworkSizes = Field(VisionTransformerSizes(), description="Architecture and sizes.")
    validation: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the training images held out for the accuracy after each epoch, "
        "where the study has no data of the role `validation`. It chooses nothing.",
    )

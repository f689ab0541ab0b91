"""What a study may say about large-batch training (no torch here)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from methods.models.networks.params import FullyConnectedSizes, NetworkSizes
from methods.study.registry import MethodParams, register


@register("methods.large_batch.train:apply", paper="1705.08741")
class LargeBatch(MethodParams):
    """Train a network on images from scratch with SGD, in one of the regimes of "Train longer,
    generalize better": plain, with a scaled learning rate, with ghost batch normalisation, with
    the number of updates of the small batch, or with multiplicative gradient noise.

    The defaults are the paper's small-batch run of F1.
    """

    needs_base: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ("train",)
    optional_roles: ClassVar[tuple[str, ...]] = ("test",)

    method: Literal["large_batch"] = "large_batch"
    network: NetworkSizes = Field(FullyConnectedSizes(), description="Architecture and sizes.")
    small_batch: int = Field(
        128, ge=2, description="The small batch, to which the rules below refer."
    )
    large_batch: int = Field(4096, ge=2, description="The large batch.")
    batch: Literal["small", "large"] = Field(
        "small", description="Which of the two makes an update."
    )
    learning_rate: float = Field(0.1, gt=0, description="Of the small batch.")
    lr_rule: Literal["none", "sqrt", "linear"] = Field(
        "none", description="Learning rate times sqrt(large/small), large/small, or 1."
    )
    lr_ref_batch: int | None = Field(
        None, ge=1, description="What the learning-rate rule refers to instead of the small batch."
    )
    epochs: int = Field(50, ge=1, description="Passes over the data, before any adaptation.")
    milestones: list[int] = Field(
        [10, 20, 30], description="Epochs from which the rate is multiplied by `factor`."
    )
    factor: float = Field(0.1, gt=0, le=1)
    regime_adaptation: Literal["none", "stretch", "matched"] = Field(
        "none",
        description="Keep the small batch's number of updates: `stretch` multiplies epochs and "
        "milestones by ceil(large/small) as published; `matched` counts updates exactly.",
    )
    ghost_size: Annotated[int, Field(ge=1)] | Literal["small"] | None = Field(
        None,
        description="Samples in one ghost; `small`: the small batch, as in the paper; "
        "null = ordinary batch normalisation.",
    )
    running: Literal["sequential", "composer", "averaged"] = Field(
        "sequential", description="How ghosts enter the running statistics."
    )
    remainder: Literal["keep", "merge", "chunk", "error"] = Field(
        "keep", description="What becomes of samples that fill no ghost; `chunk` is as published."
    )
    noise: float | Literal["none", "matching"] = Field(
        "none",
        description="Variance of multiplicative gradient noise; `matching` = large/small - 1.",
    )
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    clip_norm: float | None = Field(5.0, gt=0, description="Bound on the gradient's norm; or null.")
    augment: bool = Field(
        False, description="Random crops (4 pixels of padding) and mirror images, as for CIFAR."
    )
    repo_momentum_reset: bool = Field(
        False, description="Forget the momentum at every epoch, as the published code does."
    )
    validation: float = Field(
        0.1, ge=0, lt=1, description="Share of the training set held out for the accuracy curve."
    )
    curve_points: int = Field(
        20, ge=1, description="About how often validation accuracy is measured."
    )
    fit_from: int = Field(10, ge=1, description="First update of the fit of distance to log t.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the forward pass; statistics and weights stay float32."
    )

    @model_validator(mode="after")
    def _consistent(self) -> LargeBatch:
        stones = self.milestones
        if stones != sorted(set(stones)) or any(not 0 < stone < self.epochs for stone in stones):
            raise ValueError(
                f"milestones {stones}: must ascend and lie between 0 and epochs ({self.epochs})"
            )
        if self.large_batch < self.small_batch:
            raise ValueError(
                f"large_batch {self.large_batch} is smaller than small_batch {self.small_batch}"
            )
        batch = self.small_batch if self.batch == "small" else self.large_batch
        if isinstance(self.ghost_size, int) and self.ghost_size > batch:
            raise ValueError(
                f"ghost_size {self.ghost_size} is larger than the batch of {batch}; "
                f"allowed are 1 to {batch}, 'small', or null"
            )
        if isinstance(self.noise, float) and self.noise < 0:
            raise ValueError(f"noise {self.noise} is a variance: 0 or more, 'none' or 'matching'")
        return self

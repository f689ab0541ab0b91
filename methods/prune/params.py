"""What a study may say about sparse training (no torch here)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from methods.models.networks.params import (
    FullyConnectedSizes,
    ResidualSizes,
    ResNetSizes,
    VisionTransformerSizes,
)
from methods.prune import sizes
from methods.study.errors import RetrofitError
from methods.study.registry import MeasureParams, MethodParams, register
from methods.study.spec_model import SpecModel

SparseNetworkSizes = Annotated[
    ResNetSizes | ResidualSizes | FullyConnectedSizes | VisionTransformerSizes,
    Field(discriminator="architecture"),
]


class Sparsity(SpecModel):
    """The transformation and how its masks move; shared by images and language."""

    sparsity: float = Field(
        0.75,
        ge=0,
        lt=1,
        description="s; Wide and Parallel need a whole 1/(1-s). 0 for the family `dense`.",
    )
    resolve: bool = Field(
        False, description="Take the nearest s for which 1/(1-s) is whole instead of refusing."
    )
    distribution: Literal["uniform", "er", "erk"] = Field(
        "uniform", description="How sparsity is spread over layers; FLOPs are equal in each case."
    )
    only: list[str] = Field(["*"], min_length=1, description="Patterns of layers to transform.")
    exempt: list[str] = Field([], description="Patterns of layers that stay dense.")
    ends: bool = Field(False, description="Mask the first and the last layer too.")
    update: Literal["static", "set", "rigl", "gradual"] = Field(
        "rigl",
        description="How masks move; `gradual` prunes a full network by magnitude until the goal.",
    )
    every: int = Field(100, ge=1, description="Updates between two moves of the masks.")
    drop: float = Field(0.3, gt=0, lt=1, description="First share of weights dropped; a cosine.")
    begin: float = Field(0.0, ge=0, le=1, description="Share of training before masks move.")
    end: float = Field(
        0.75, ge=0, le=1, description="Share of training after which they stay; .8 in its help."
    )
    match: Literal["updates", "training_flops"] = Field(
        "updates",
        description="updates: as many as the dense network; training_flops: as many as cost what "
        "the dense network's training costs.",
    )

    def check_sparsity(self, family: str) -> None:
        """Raise ValueError where family and settings do not go together."""
        if (family == "dense") != (self.sparsity == 0) and family == "dense":
            raise ValueError(f"family 'dense' has no sparsity, found {self.sparsity}; write 0")
        if family in ("wide", "parallel") and not self.resolve:
            try:
                sizes.branches(self.sparsity)
            except RetrofitError as error:
                raise ValueError(str(error)) from None
        if self.begin > self.end:
            raise ValueError(f"begin {self.begin} lies after end {self.end}")


@register("methods.prune.train:apply", paper="2303.11525")
class SparseIFT(MethodParams, Sparsity):
    """Train an image classifier from scratch as a Sparse-IFT network: larger layers, masked so that
    the FLOPs are those of the network given.

    The defaults are the paper's ResNet-18 on CIFAR-100.
    """

    needs_base: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ("train",)
    optional_roles: ClassVar[tuple[str, ...]] = ("validation",)

    method: Literal["sparse_ift"] = "sparse_ift"
    network: SparseNetworkSizes = Field(ResNetSizes(), description="The dense network.")
    family: Literal["dense", "wide", "parallel", "factorized", "doped"] = Field(
        "wide", description="The transformation; dense: the network as it is."
    )
    activation: Literal["default", "none", "relu", "gelu", "norm", "norm_relu"] = Field(
        "default",
        description="Between the products of Factorized and after the branches of Parallel. "
        "default: normalisation (and ReLU, Factorized) for convolutions, ReLU for linear layers.",
    )
    epochs: int = Field(200, ge=1, description="Passes of the dense network over the images.")
    batch: int = Field(128, ge=2)
    learning_rate: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov's, unless 0.")
    weight_decay: float = Field(5e-4, ge=0, description="Of all parameters, as published.")
    schedule: Literal["steps", "cosine"] = Field(
        "steps", description="steps: times `factor` at each milestone; cosine: down to 0."
    )
    milestones: list[int] = Field([60, 120, 160], description="Epochs of the dense network.")
    factor: float = Field(0.2, gt=0, le=1)
    warm_up: float = Field(0.0, ge=0, lt=1, description="Share of the updates.")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    augment: bool = Field(True, description="Random crops from padding, and mirror images.")
    shift: int = Field(4, ge=0, description="The most pixels that `augment` shifts an image by.")
    clip_norm: float | None = Field(None, gt=0, description="Bound on the gradient's norm.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the forward pass; weights and masks stay float32 and exact."
    )

    @model_validator(mode="after")
    def _consistent(self) -> SparseIFT:
        self.check_sparsity(self.family)
        stones = self.milestones if self.schedule == "steps" else []
        if stones != sorted(set(stones)) or any(not 0 < stone < self.epochs for stone in stones):
            raise ValueError(
                f"milestones {stones}: must ascend and lie between 0 and epochs ({self.epochs})"
            )
        if self.activation.startswith("norm") and self.network.architecture in (
            "fully_connected",
            "vit",
        ):
            raise ValueError(
                f"activation '{self.activation}' normalises channels of images, and the layers of "
                f"{self.network.architecture} are linear; allowed are default, none, relu, gelu"
            )
        return self


@register("methods.prune.language:apply", paper="2303.11525")
class SparseIFTLanguage(MethodParams, Sparsity):
    """Train a small GPT from scratch on text, dense or as Sparse Wide.

    A Llama of `depth` blocks over bytes. Attention and feed-forward projections are masked;
    embedding, head and norms stay dense, and attention products count in the budget.
    """

    needs_base: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ("train",)

    method: Literal["sparse_ift_language"] = "sparse_ift_language"
    family: Literal["dense", "wide"] = "wide"
    width: int = Field(768, ge=8, description="Of the dense network; GPT-3 Small has 768.")
    depth: int = Field(12, ge=1, description="Blocks.")
    heads: int = Field(12, ge=1, description="2 x heads must divide the width.")
    ratio: float = Field(4.0, gt=0, description="Inner width of the feed-forward part / width.")
    length: int = Field(2048, ge=8, description="Bytes in one window.")
    updates: int = Field(1000, ge=1, description="Of the dense network.")
    batch: int = Field(16, ge=1, description="Windows in one update.")
    learning_rate: float = Field(6e-4, gt=0, description="AdamW, at its highest.")
    warm_up: float = Field(0.1, ge=0, lt=1, description="Share of the updates; a cosine follows.")
    weight_decay: float = Field(0.1, ge=0, description="Of matrices.")
    clip_norm: float | None = Field(1.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _consistent(self) -> SparseIFTLanguage:
        self.check_sparsity(self.family)
        if self.width % (2 * self.heads):
            raise ValueError(
                f"{self.heads} heads need a width that is a multiple of {2 * self.heads} "
                f"(rotary positions pair features), found {self.width}"
            )
        return self


@register("methods.prune.step_time:measure")
class StepTime(MeasureParams):
    """Milliseconds of one forward pass and of one training step, as computed with dense kernels.

    Depends on the machine and its load: shown in tables, never compared by CI.
    """

    comparable: ClassVar[bool] = False
    optional_roles: ClassVar[tuple[str, ...]] = ("test", "eval")

    measure: Literal["step_time"] = "step_time"
    batch: int = Field(64, ge=1, description="Images, or windows of text, in one step.")
    length: int = Field(128, ge=2, description="Tokens in a window.")
    repeats: int = Field(8, ge=2, description="Timed steps; the median counts.")
    precision: Literal["float32", "bfloat16"] = "float32"

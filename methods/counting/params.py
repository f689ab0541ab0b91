"""What a study may say about counting by density maps (no torch here)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from methods.study.errors import RetrofitError
from methods.study.registry import MeasureParams, MethodParams, register
from methods.study.spec_model import SpecModel

Outside = Literal["clamp", "drop", "refuse"]
Positive = Literal["relu", "softplus"]
STRIDE = 16


@register("methods.counting.maps:apply", paper="2208.02894")
class DensityMaps(MethodParams):
    """Density maps of all training and validation points, made once for every variant and seed that follows."""

    stochastic: ClassVar[bool] = False
    needs_base: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ("train",)
    optional_roles: ClassVar[tuple[str, ...]] = ("validation",)

    method: Literal["density_maps"] = "density_maps"
    kernel: Literal["fixed", "adaptive"] = Field(
        "fixed", description="adaptive: wide where points are far apart (MCNN, CSRNet's part A)."
    )
    sigma: float = Field(4.0, gt=0, description="Deviation of a fixed kernel, in pixels.")
    size: int | None = Field(
        15, ge=1, description="Side of a fixed kernel's window, odd; null: four deviations."
    )
    beta: float = Field(0.3, gt=0, description="Adaptive deviation / distance to the neighbours.")
    neighbours: int = Field(3, ge=1, description="Whose mean distance counts.")
    border: Literal["renormalise", "recentre", "reflect", "constant"] = Field(
        "renormalise",
        description="What becomes of a kernel that reaches out of the image. recentre: as published, sums "
        "right and peaks wrong; constant: loses count, as CSRNet's maps.",
    )
    outside: Outside = Field(
        "clamp",
        description="Points outside the image: moved to its edge and counted (as published), left out, or refused.",
    )

    @model_validator(mode="after")
    def _has_a_middle(self) -> DensityMaps:
        if self.size is not None and self.size % 2 == 0:
            raise ValueError(
                f"size {self.size} is even and has no middle pixel; allowed: odd, or null"
            )
        return self


@register("methods.counting.maps:beside", paper="2208.02894")
class DensityMapsBesideBase(DensityMaps):
    """The same, with the study's base network carried along for `backbone: efficientnet_lite`."""

    needs_base: ClassVar[bool] = True

    method: Literal["density_maps_beside_base"] = "density_maps_beside_base"

    def check_base(self, config: dict) -> None:
        """Only a published EfficientNet-Lite can be the backbone of what follows."""
        if config.get("architecture") != "efficientnet_lite":
            found = config.get("architecture") or config.get("model_type") or "another model"
            raise RetrofitError(
                f"the base of density_maps_beside_base must be an efficientnet_lite, not {found}"
            )


class PublishedWeights(SpecModel):
    """Weights of torchvision's vgg16_bn in a file of one's own."""

    file: str = Field(description="`.safetensors` or `.pth`; `$NAME` is an environment variable.")
    sha256: str = Field(
        "6c64b313",
        pattern="^[0-9a-f]{8,64}$",
        description="Beginning of the file's SHA-256, at least 8 digits; torchvision's name has it.",
    )


class HMoDESizes(SpecModel):
    """The hierarchical mixture of density experts; the defaults are the paper's, 82.62 million parameters."""

    architecture: Literal["hmode"] = "hmode"
    width: int = Field(64, ge=1, description="Channels of the first stage; all but gate 2 follow.")
    second_gate: int = Field(2048, ge=8, description="Channels of the second gate's widest layer.")
    mixture: Literal["hierarchical", "flat", "mean", "single"] = Field(
        "hierarchical",
        description="flat: one gate over three experts; mean: no gates; single: the finest expert only.",
    )
    backbone: Literal["vgg16", "efficientnet_lite"] = "vgg16"
    frozen: bool = Field(False, description="The backbone keeps its weights (efficientnet_lite).")
    rectified: bool = Field(
        True, description="ReLU on the gates' logits, as in the published code."
    )
    positive: Positive = Field("relu", description="What ends an expert; relu as published.")

    @model_validator(mode="after")
    def _consistent(self) -> HMoDESizes:
        if self.second_gate % 8:
            raise ValueError(f"second_gate {self.second_gate} is no multiple of 8")
        if self.frozen and self.backbone == "vgg16":
            raise ValueError("frozen belongs to the backbone efficientnet_lite")
        return self


class MCNNSizes(SpecModel):
    """Three columns with filters of three sizes (CVPR 2016); the default is as published."""

    architecture: Literal["mcnn"] = "mcnn"
    width: int = Field(16, ge=2, description="Channels of the first column's first layer.")
    positive: Positive = "relu"
    normalised: bool = Field(False, description="Batch normalisation in the layers of its own.")


class CSRNetSizes(SpecModel):
    """VGG16's first ten convolutions and six dilated ones (CVPR 2018); the default is as published."""

    architecture: Literal["csrnet"] = "csrnet"
    width: int = Field(64, ge=1, description="Channels of the first stage.")
    positive: Positive = "relu"
    normalised: bool = Field(False, description="Batch normalisation in the layers of its own.")


CounterSizes = Annotated[HMoDESizes | MCNNSizes | CSRNetSizes, Field(discriminator="architecture")]


class Loss(SpecModel):
    """Weights of the terms beside the density's; 0 leaves a term out. The defaults are the paper's."""

    relative: float = Field(1.0, ge=0, description="Relative local counting loss.")
    importance: float = Field(1.0, ge=0, description="Equal use of the experts in each pair.")
    attention: float = Field(1.0, ge=0, description="Cross-entropy of the attention map.")
    patch: int = Field(16, ge=1, description="Side of a patch of the local counts, in pixels.")
    hardest: int = Field(9, ge=3, description="Patches that are compared; a multiple of three.")
    threshold: float = Field(1e-5, ge=0, description="Density that the attention must find.")

    @model_validator(mode="after")
    def _triples(self) -> Loss:
        if self.hardest % 3:
            raise ValueError(f"hardest {self.hardest} is no multiple of three")
        return self


@register("methods.counting.train:apply", paper="2208.02894")
class DensityCounting(MethodParams):
    """Train a network to predict density maps, choose its epoch on held-out training images, and count the test's.

    The defaults are the recipe of HMoDE's published code.
    """

    follows: ClassVar[tuple[str, ...]] = ("density_maps", "density_maps_beside_base")
    roles: ClassVar[tuple[str, ...]] = ("train",)
    optional_roles: ClassVar[tuple[str, ...]] = ("validation", "test")

    method: Literal["density_counting"] = "density_counting"
    network: CounterSizes = Field(HMoDESizes(), description="Architecture and sizes.")
    weights: PublishedWeights | None = Field(
        None, description="Of a VGG16 of width 64; null: the backbone starts at random."
    )
    loss: Loss = Loss()
    scale: float = Field(100.0, gt=0, description="What densities are multiplied by to be learned.")
    initial: Literal["published", "he"] = Field(
        "published",
        description="Convolutions outside the backbone: normal of deviation 0.01 as published, or He et al.",
    )
    crop: int | None = Field(
        None, ge=STRIDE, description="Side of a random crop; null: whole images, one at a time."
    )
    crops: int = Field(1, ge=1, description="Crops of each image in an epoch.")
    batch: int = Field(1, ge=1)
    epochs: int = Field(200, ge=1)
    learning_rate: float = Field(2e-5, gt=0)
    milestones: list[int] = Field(
        [100], description="Epochs from which the rate is multiplied by `factor`."
    )
    factor: float = Field(0.5, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    clip_norm: float | None = Field(None, gt=0, description="Bound on the gradient's norm.")
    flip: bool = Field(True, description="Mirror half of the images.")
    validation: float = Field(
        0.1, ge=0, lt=1, description="Share of the training images held out to choose the epoch."
    )
    check_from: int = Field(100, ge=0, description="First epoch (from 0) after which it is judged.")
    check_every: int = Field(1, ge=1, description="Epochs between judgements.")
    pictures: int = Field(
        3,
        ge=0,
        le=12,
        description="Test images of which truth and prediction are kept as pictures.",
    )
    precision: Literal["float32", "bfloat16"] = "float32"

    @model_validator(mode="after")
    def _consistent(self) -> DensityCounting:
        if self.crop is None and (self.batch > 1 or self.crops > 1):
            raise ValueError(
                "whole images differ in size: batch and crops are 1, or crop has a size"
            )
        patches = None if self.crop is None else (self.crop // self.loss.patch) ** 2
        if self.loss.relative and patches is not None and patches < self.loss.hardest:
            raise ValueError(
                f"a crop of {self.crop} has {patches} patches of {self.loss.patch} pixels, and the relative "
                f"loss compares {self.loss.hardest}"
            )
        stones = self.milestones
        if stones != sorted(set(stones)) or any(not 0 < stone < self.epochs for stone in stones):
            raise ValueError(
                f"milestones {stones}: must ascend and lie between 0 and epochs ({self.epochs})"
            )
        if self.check_from >= self.epochs:
            raise ValueError(f"check_from {self.check_from} is not before epochs ({self.epochs})")
        vgg = getattr(self.network, "backbone", "vgg16") == "vgg16"
        if self.weights and (
            self.network.architecture == "mcnn" or not vgg or self.network.width != 64
        ):
            raise ValueError("weights are those of a VGG16 of width 64")
        return self


def small(**changes: Any) -> DensityCounting:
    """Settings for some dozens of small images on a CPU, with what is to be different: what `learn` takes."""
    network = {"architecture": "hmode", "width": 8, "second_gate": 64, "positive": "softplus"}
    recipe = {"initial": "he", "crop": 96, "batch": 4, "learning_rate": 1e-3, "pictures": 0}
    epochs = {"epochs": 30, "milestones": [20], "factor": 0.3, "check_from": 15}
    return DensityCounting.model_validate({"network": network, **recipe, **epochs, **changes})


@register("methods.counting.uniform:apply")
class UniformDensity(MethodParams):
    """A control that does not look: the mean density of the training images, everywhere."""

    stochastic: ClassVar[bool] = False
    follows: ClassVar[tuple[str, ...]] = ("density_maps", "density_maps_beside_base")
    roles: ClassVar[tuple[str, ...]] = ("train",)

    method: Literal["uniform_density"] = "uniform_density"


@register("methods.counting.measure:measure")
class Counting(MeasureParams):
    """MAE, RMSE, NAE and GAME of the counts on every set of scenes of the role `test`."""

    roles: ClassVar[tuple[str, ...]] = ("test",)
    region: ClassVar[bool] = False

    measure: Literal["counting"] = "counting"
    levels: int = Field(3, ge=0, le=6, description="Highest L of GAME(L), with 4^L cells.")
    outside: Outside = Field(
        "clamp", description="Points outside the image: counted at its edge, left out, or refused."
    )


@register("methods.counting.measure:measure")
class CountingInRegion(Counting):
    """The same where black pixels mark what does not count, as in TRANCOS: predictions there are left out."""

    region: ClassVar[bool] = True

    measure: Literal["counting_in_region"] = "counting_in_region"

"""What a study may say about SGD noise (no heavy imports here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from methods.study.registry import MethodParams, register
from methods.study.spec_model import SpecModel


class DenseSizes(SpecModel):
    """A fully connected network in NTK parametrisation."""

    kind: Literal["dense"] = "dense"
    width: int = Field(64, ge=1)
    depth: int = Field(2, ge=1, description="Hidden layers.")


class ConvSizes(SpecModel):
    """Strided 3x3 convolutions in NTK parametrisation, then the mean over places."""

    kind: Literal["conv"] = "conv"
    width: int = Field(16, ge=1, description="Channels.")
    depth: int = Field(2, ge=1, description="Convolutions, each of stride 2.")


def _rising(values: list, name: str) -> list:
    if sorted(set(values)) != values:
        raise ValueError(f"{name} must rise, without a value twice: {values}")
    return values


@register("methods.dynamics.sgd_noise.phases:apply", paper="2301.13703")
class SGDNoise(MethodParams):
    """Train an ensemble of networks, one for each output scale alpha, temperature T, number of images P and replicate,
    with SGD on the hinge loss until every image has its margin; how well they generalise and how far they moved.
    """

    needs_base: ClassVar[bool] = False
    roles: ClassVar[tuple[str, ...]] = ("train", "test")

    method: Literal["sgd_noise"] = "sgd_noise"
    network: DenseSizes | ConvSizes = Field(DenseSizes(), discriminator="kind")
    alphas: list[float] = Field(
        [2.0**k for k in range(-4, 9, 2)],
        min_length=1,
        description="Scale of the predictor alpha (f(w, x) - f(w0, x)): small learns features, large is lazy.",
    )
    temperatures: list[float] = Field(
        [2.0**k for k in range(-6, 3)],
        min_length=1,
        description="T = learning rate / batch.",
    )
    sizes: list[int] = Field([512], min_length=1, description="Numbers of training images P.")
    batch: int = Field(16, ge=1, description="Images in an update.")
    replicates: int = Field(3, ge=1, description="Draws of weights and images.")
    pool: int = Field(2, ge=1, description="Average so many pixels in each direction.")
    max_updates: int = Field(
        20_000, ge=1, description="A network that has not fitted by then is not fitted."
    )
    replacement: bool = Field(
        True, description="Draw batches with replacement; false: epoch by epoch."
    )
    factor: float = Field(
        2.0,
        gt=1,
        description="T_c(P): where the weights move this many times as far as at the smallest T.",
    )

    @field_validator("alphas", "temperatures", "sizes")
    @classmethod
    def _rise(cls, values: list, info) -> list:
        if values and values[0] <= 0:
            raise ValueError(f"{info.field_name} must be above 0: {values[0]}")
        return _rising(values, info.field_name)

    @model_validator(mode="after")
    def _fits(self) -> SGDNoise:
        if self.batch > self.sizes[0]:
            raise ValueError(
                f"batch {self.batch} is larger than the smallest of sizes, {self.sizes[0]}"
            )
        return self


@register("methods.dynamics.sgd_noise.teacher:apply", paper="2301.13703")
class SGDPerceptron(MethodParams):
    """The teacher perceptron: its weights against T and P, and the exponents of the theory."""

    needs_base: ClassVar[bool] = False

    method: Literal["sgd_perceptron"] = "sgd_perceptron"
    dimension: int = Field(10, ge=2, description="d.")
    chi: float = Field(0.0, ge=0, description="Density of |x1| near the border, |x1|^chi.")
    sizes: list[int] = Field([32, 64, 128, 256], min_length=1)
    temperatures: list[float] = Field([1.0], min_length=1)
    batch: int = Field(2, ge=1)
    margin: float = Field(1e-3, gt=0, description="1 / alpha.")
    replicates: int = Field(8, ge=2)
    max_updates: int = Field(2_000_000, ge=1)

    @field_validator("temperatures", "sizes")
    @classmethod
    def _rise(cls, values: list, info) -> list:
        if values and values[0] <= 0:
            raise ValueError(f"{info.field_name} must be above 0: {values[0]}")
        return _rising(values, info.field_name)

    @model_validator(mode="after")
    def _fits(self) -> SGDPerceptron:
        if self.batch > self.sizes[0]:
            raise ValueError(
                f"batch {self.batch} is larger than the smallest of sizes, {self.sizes[0]}"
            )
        return self

"""Which networks a study may ask for, and their sizes (no torch here)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from methods.study.spec_model import SpecModel


class FullyConnectedSizes(SpecModel):
    """Hidden layers with batch normalisation; the defaults are F1 of arXiv 1705.08741."""

    architecture: Literal["fully_connected"] = "fully_connected"
    width: int = Field(512, ge=1, description="Units of each hidden layer.")
    depth: int = Field(5, ge=0, description="Hidden layers.")


class ResidualSizes(SpecModel):
    """A three-stage residual network; the defaults are ResNet-44 for small images."""

    architecture: Literal["residual"] = "residual"
    width: int = Field(16, ge=1, description="Channels of the first stage; later ones double them.")
    blocks: int = Field(7, ge=1, description="Blocks in each of the three stages.")
    stem_stride: Literal[1, 2] = Field(1, description="2 halves the image in the first layer.")


class ResNetSizes(SpecModel):
    """A residual network of four stages; the defaults are ResNet-18 for small images."""

    architecture: Literal["resnet"] = "resnet"
    width: int = Field(64, ge=1, description="Channels of the first stage; later ones double them.")
    blocks: list[Annotated[int, Field(ge=1)]] = Field(
        [2, 2, 2, 2], min_length=1, description="Blocks in each stage; [3, 4, 6, 3] is ResNet-34."
    )
    stem: Literal["small", "large"] = Field(
        "small", description="large: 7x7 at stride 2 and pooling, as for ImageNet."
    )


class WideResidualSizes(SpecModel):
    """A wide residual network in pre-activation order; the defaults are WRN-28-10."""

    architecture: Literal["wide_residual"] = "wide_residual"
    width: int = Field(160, ge=1, description="Channels of the first stage; later ones double it.")
    blocks: int = Field(4, ge=1, description="Blocks in each of the three stages.")
    stem: int = Field(16, ge=1, description="Channels of the first layer.")
    stem_stride: Literal[1, 2] = Field(1, description="2 halves the image in the first layer.")
    inner_norm: bool = Field(
        True,
        description="The second normalisation of a block; the published code leaves it out.",
    )


class VisionTransformerSizes(SpecModel):
    """A vision transformer without dropout; the defaults suit images of 28 or 32 pixels."""

    architecture: Literal["vit"] = "vit"
    patch: int = Field(4, ge=1, description="Side of a patch; must divide the image's.")
    width: int = Field(96, ge=1)
    depth: int = Field(6, ge=1, description="Blocks.")
    heads: int = Field(3, ge=1, description="Must divide the width.")
    ratio: float = Field(4.0, gt=0, description="Inner width of the feed-forward part / width.")
    pool: Literal["token", "mean"] = Field(
        "token", description="What is classified: a class token or the mean over the patches."
    )


NetworkSizes = Annotated[
    FullyConnectedSizes | ResidualSizes | ResNetSizes | WideResidualSizes | VisionTransformerSizes,
    Field(discriminator="architecture"),
]
"""One of the networks, told apart by `architecture`."""

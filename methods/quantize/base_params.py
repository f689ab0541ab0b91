"""What a study may say about the integer grid that all quantisers share (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from methods.quantize.widths import check_group_size, widths_of_config
from methods.study.registry import MethodParams


class GridParams(MethodParams):
    """The integer grid that all quantisers share."""

    bits: Literal[2, 3, 4, 8] = Field(4, description="Bits per weight.")
    group_size: int = Field(
        64,
        description="Input features that share one scale; must divide the input features of every "
        "layer. -1 = one group per output channel.",
    )
    symmetric: bool = Field(False, description="Zero sits in the middle of the codes.")
    zero_point: Literal["in_range", "published_code"] = Field(
        "in_range",
        description="in_range: the grid always contains zero. published_code: as in AWQ's code, "
        "where a group of weights of one sign is clipped from its range up to the zero point.",
    )
    scale_dtype: Literal["float16", "float32"] = Field(
        "float16",
        description="Scales are rounded to this type before the codes are derived from them, so "
        "that stored codes and stored scales agree in formats that keep 16-bit scales.",
    )

    @field_validator("group_size")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value != -1 and value < 2:
            raise ValueError(f"group_size {value}: allowed are -1 (per output channel) or 2 and up")
        return value

    @model_validator(mode="after")
    def _no_zero_point_to_clamp(self) -> GridParams:
        if self.symmetric and self.zero_point == "published_code":
            raise ValueError("a symmetric grid has no zero point: leave out zero_point")
        return self

    def check_base(self, config: dict) -> None:
        """Refuse a group size that does not divide the layers that `config.json` describes."""
        check(self, config)


def check(params: GridParams, config: dict) -> None:
    """Planning-time check of a step against the base model's `config.json`.

    Raises RetrofitError: group size that does not divide, model that is quantised already.
    """
    from methods.study.errors import RetrofitError

    if config.get("quantization_config"):
        raise RetrofitError(
            f"the base is quantised already; {params.method} needs a model with float weights"
        )
    check_group_size(widths_of_config(config), params.group_size)

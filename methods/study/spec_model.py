"""The base of everything that a YAML file may say: strict, immutable, unknown keys refused by name."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from methods.study.errors import choices


class SpecModel(BaseModel):
    """A section of a specification.

    Strict: the text "3" is no integer and `no` is no boolean (YAML 1.2 reads it as text).
    Unknown keys are refused with the nearest allowed one.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            allowed = [field.alias or name for name, field in cls.model_fields.items()]
            for key in value:
                if key not in allowed:
                    raise PydanticCustomError(
                        "unknown_key",
                        "unknown key '{key}'; {choices}",
                        {"key": str(key), "choices": choices(key, allowed)},
                    )
        return value

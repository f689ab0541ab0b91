"""What a study may say about adapting a model (no torch here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from methods.fit.params import Tuning
from methods.study.registry import MethodParams, register


@register("methods.adapt.lora:apply", paper="2106.09685")
class Lora(MethodParams):
    """Fine-tune a causal language model by low-rank adapters and merge them.

    Also the control of every method that ends with the same steps on the same tokens.
    """

    roles: ClassVar[tuple[str, ...]] = ("train",)

    method: Literal["lora"] = "lora"
    train: Tuning = Tuning()

"""Low-rank adaptation of a causal language model (Hu et al., 2106.09685), by peft, merged at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from methods.fit.causal_lm import tune
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.adapt.params import Lora
    from methods.models.language import LanguageModel
    from methods.run.context import Context


def apply(base: LanguageModel, data: dict, params: Lora, context: Context) -> LanguageModel:
    """The tuned model. Raises RetrofitError: no base, quantised weights, and as `tune` does."""
    if base is None:
        raise RetrofitError("lora needs a base model: give the study a `base:`")
    if base.quantized:
        raise RetrofitError("lora: the model is quantised; merging would undo its rounding")
    model = tune(base.model, data, base.tokenizer, params.train, context)
    notes = base.notes | {"lora": {"tokens": params.train.tokens}}
    return replace(base, model=model, notes=notes, metrics={})

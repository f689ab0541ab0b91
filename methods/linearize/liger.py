"""Liger: linearising a language model with the gates it already has (Lan et al., 2503.01496).

The attention of every block is replaced (`attention.py`), the base's weights load as they are, and
adapters on the query, key and value projections are tuned on next-token loss, end to end, in one
stage.

*Fidelity.* Follows the paper and, where they differ, its published code in: the pooling that is the
identity, the power 1/16 of the gates, no 1/sqrt(d) and no denominator in the recurrence, no rotation
of its queries and keys, a constant learning rate. The window counts the query itself, as in the
paper (the code sees one key more). The paper's share of trained parameters (0.085 %) is that of
adapters on query, key, value and output; its text and code train the first three, and so do the
defaults. Avoided: decoding without the window's keys, positions offset by the number of heads, sizes
that ignore the checkpoint, a gradient bound that is set and never applied. Chosen here: windows of
running text with loss on all tokens (`loss_on: answer` packs instructions as the paper does, with
the state reset between them, which the code leaves out).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from methods.fit.causal_lm import tune
from methods.linearize.conversion import linearized
from methods.linearize.modeling import added_parameters
from methods.models.language import LanguageModel
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.linearize.modeling import LinearizedForCausalLM
    from methods.linearize.params import Liger, LinearizeParams
    from methods.run.context import Context

REGISTERS = ("methods.linearize.modeling",)


def apply(base: LanguageModel, data: dict, params: Liger, context: Context) -> LanguageModel:
    """The linearised and tuned model. Raises RetrofitError as `linearized` and `tune` do."""
    model = convert(
        base,
        params,
        context,
        mechanism="liger",
        gate=params.gate,
        gate_source=params.gate_source,
        gate_normalizer=params.gate_normalizer,
        gate_lower_bound=params.gate_lower_bound,
        pool_size=params.pool_size,
        feature_map=params.feature_map,
        alpha=params.alpha,
        beta=params.beta,
        sinks=params.sinks,
        normalize=params.normalize,
        full_attention_every=params.full_attention_every,
    )
    return finish(base, model, data, params, context)


def convert(
    base: LanguageModel | None, params: LinearizeParams, context: Context, **attention: Any
) -> LinearizedForCausalLM:
    """The linearised model before any training. Raises RetrofitError for a base that does not fit."""
    if base is None:
        raise RetrofitError(f"{params.method} needs a base model: give the study a `base:`")
    if base.quantized:
        raise RetrofitError(
            f"{params.method}: the model is quantised already; linearise first, quantise after"
        )
    return linearized(
        base.model, context.seed_for("added parameters"), window=params.window, **attention
    )


def finish(
    base: LanguageModel,
    model: LinearizedForCausalLM,
    data: dict,
    params: LinearizeParams,
    context: Context,
) -> LanguageModel:
    """Tune the model and make it a run's artifact."""
    added = added_names(model)
    model = tune(model, data, base.tokenizer, params.train, context, added)
    facts = {params.method: {"window": params.window, "tokens": params.train.tokens}}
    notes = base.notes | {"linearize": facts}
    extra = sum(model.get_parameter(name).numel() for name in added)
    found = {"parameters/added": Metric(extra, higher_is_better=False)}
    return replace(base, model=model, notes=notes, registers=REGISTERS, quantized={}, metrics=found)


def added_names(model: LinearizedForCausalLM) -> set[str]:
    """Full names of the parameters that the base does not have."""
    return {
        f"model.layers.{index}.self_attn.{name}"
        for index, layer in enumerate(model.model.layers)
        for name in added_parameters(layer.self_attn)
    }

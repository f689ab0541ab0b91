"""The configuration of a linearised Llama-family model, registered with transformers' Auto classes."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, LlamaConfig

from methods.linearize.bases import LINEARIZED
from methods.linearize.gates import structure
from methods.study.errors import RetrofitError, choices

MECHANISMS = ("liger", "lolcats", "supra")
SOURCES = ("k", "q", "v", "projection")
FEATURE_MAPS = ("structure", "hedgehog")
FULL = "full_attention"
LINEAR = "window_attention"
"""Layer types. transformers refuses names that it does not know; this one it knows but gives no cache
to, so that `methods.linearize.cache` can."""


class LinearizedConfig(LlamaConfig):
    """What the base model's configuration says, and what stands in for its attention.

    mechanism: "liger" (alpha times the recurrence plus beta times the window), "lolcats" (one softmax
    over the window and, beyond it, learned features) or "supra" (features with a fixed decay, no
    window). Everything else is described in `methods/linearize/params.py`. qkv_bias, output_bias: of
    the projections (Qwen2 has the first). linearized_from: `model_type` of the base.
    """

    model_type = LINEARIZED

    mechanism: str = "liger"
    gate: str = "gla"
    gate_source: str = "k"
    gate_normalizer: float | None = None
    gate_lower_bound: float = 0.0
    pool_size: int | None = None
    feature_map: str = "structure"
    feature_dim: int | None = None
    alpha: float = 0.5
    beta: float = 0.5
    window: int = 64
    sinks: int = 0
    normalize: bool = False
    full_attention_every: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    linearized_from: str = "llama"
    scale_groups_of: str = "llama"
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs: Any):
        check_attention(
            mechanism=self.mechanism,
            gate=self.gate,
            gate_source=self.gate_source,
            feature_map=self.feature_map,
            window=self.window,
            sinks=self.sinks,
            beta=self.beta,
            alpha=self.alpha,
        )
        every = self.full_attention_every
        self.layer_types = [
            FULL if every and index % every == every - 1 else LINEAR
            for index in range(self.num_hidden_layers)
        ]
        super().__post_init__(**kwargs)


def check_attention(
    mechanism: str,
    gate: str,
    gate_source: str,
    feature_map: str,
    window: int,
    sinks: int,
    alpha: float,
    beta: float,
) -> None:
    """Refuse settings that mean nothing, naming what is allowed (RetrofitError)."""
    for key, value, allowed in (
        ("mechanism", mechanism, MECHANISMS),
        ("gate_source", gate_source, SOURCES),
        ("feature_map", feature_map, FEATURE_MAPS),
    ):
        if value not in allowed:
            raise RetrofitError(f"{key} '{value}'; {choices(value, allowed)}")
    structure(gate)
    if window < 1:
        raise RetrofitError(f"window {window}: a query sees at least itself, so 1 and up")
    if sinks < 0:
        raise RetrofitError(f"sinks {sinks}: a number of tokens, 0 and up")
    if mechanism == "liger" and alpha == 0 and beta == 0:
        raise RetrofitError("alpha 0 and beta 0 leave no attention at all")


AutoConfig.register(LinearizedConfig.model_type, LinearizedConfig)

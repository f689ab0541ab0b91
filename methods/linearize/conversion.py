"""From a Llama-family model to its linearised twin, with the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from methods.linearize.configuration import LinearizedConfig
from methods.linearize.modeling import LinearizedForCausalLM, added_parameters
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

BIASES = {"llama": (False, False), "mistral": (False, False), "qwen2": (True, False)}
"""`model_type` to (query, key and value biases; output bias), where the configuration does not say."""
WHY_NOT = {
    "gemma": "its norms multiply by 1 + weight and its embeddings are scaled",
    "gemma2": "it caps attention logits and alternates local and global layers",
    "gemma3": "it normalises queries and keys and alternates local and global layers",
    "gemma3_text": "it normalises queries and keys and alternates local and global layers",
    "qwen3": "it normalises queries and keys after their projection",
    "gpt2": "it learns absolute positions, and its query, key and value are one matrix",
    "gpt_neox": "its query, key and value are one matrix, and only a part of each head is rotated",
    "opt": "it learns absolute positions, which a recurrence without a window cannot replace",
    "phi": "only a part of each head is rotated",
    "bloom": "it has ALiBi biases instead of rotary positions",
    "falcon": "its query, key and value are one matrix",
    "deepseek_v3": "its keys and values are compressed (multi-head latent attention)",
}


def check_base(config: dict[str, Any]) -> None:
    """Refuse a base whose attention cannot be linearised here, from its `config.json`.

    Raises RetrofitError naming the architecture, why, and what can be.
    """
    kind = config.get("model_type", "unknown")
    if config.get("quantization_config"):
        raise RetrofitError(
            "the base is quantised; linearise a model with float weights and quantise the result"
        )
    if kind == LinearizedConfig.model_type:
        raise RetrofitError("the base is linearised already")
    if kind not in BIASES:
        why = f": {WHY_NOT[kind]}" if kind in WHY_NOT else ""
        raise RetrofitError(
            f"the attention of '{kind}' cannot be linearised here{why}; "
            f"allowed: {', '.join(BIASES)}"
        )
    if kind == "qwen2" and config.get("use_sliding_window"):
        raise RetrofitError(
            "this qwen2 model has sliding-window layers (use_sliding_window), whose keys a "
            "recurrence would see again"
        )


def configuration(base: PretrainedConfig, **attention: Any) -> LinearizedConfig:
    """The linearised model's configuration: all sizes of the base, and `attention`'s fields."""
    described = base.to_dict()
    check_base(described)
    kind = described["model_type"]
    qkv_bias, output_bias = BIASES[kind]
    if described.get("attention_bias"):
        qkv_bias = output_bias = True
    taken = {
        key: described[key]
        for key in LinearizedConfig().to_dict()
        if key in described and key not in ("model_type", "architectures", "layer_types")
    }
    taken |= {"qkv_bias": qkv_bias, "output_bias": output_bias, "linearized_from": kind}
    return LinearizedConfig(**(taken | attention))


@torch.no_grad()
def linearized(base: PreTrainedModel, seed: int, **attention: Any) -> LinearizedForCausalLM:
    """A linearised model that holds the very tensors of `base`, in evaluation mode.

    attention: fields of `LinearizedConfig`. seed: of what is added at random. Raises RetrofitError
    for a base that cannot be linearised, and for tensors that are missing or left over, by name.
    """
    config = configuration(base.config, **attention)
    config.dtype = base.dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LinearizedForCausalLM(config)
    state = base.state_dict()
    expected, added = set(model.state_dict()), set()
    for index, layer in enumerate(model.model.layers):
        names = added_parameters(layer.self_attn)
        added |= {f"model.layers.{index}.self_attn.{name}" for name in names}
    problems = {
        "lacks": sorted(expected - added - set(state)),
        "has, and the linearised model does not,": sorted(set(state) - expected),
    }
    for problem, names in problems.items():
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise RetrofitError(f"the base {problem} {', '.join(names[:5])}{more}")
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    model.generation_config = base.generation_config
    return model.eval()

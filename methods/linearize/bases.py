"""Which architectures can be linearised, and why the others cannot: from `config.json` alone."""

from __future__ import annotations

from typing import Any

from methods.study.errors import RetrofitError

LINEARIZED = "linearized_llama"
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
    if kind == LINEARIZED:
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

"""Tiny models of the families that can be linearised, with logits of a size that shows mistakes."""

from __future__ import annotations

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SIZES = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}


def tiny(family: str = "llama", **changes):
    config, model = FAMILIES[family]
    torch.manual_seed(0)
    built = model(config(**(SIZES | changes))).eval().requires_grad_(False)
    for name, parameter in built.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    return built


def tokens(rows: int = 2, length: int = 150, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, SIZES["vocab_size"], (rows, length), generator=generator)


VARIANTS = {
    "gla": {"window": 16},
    "hgrn2": {"window": 16, "gate": "hgrn2"},
    "hgrn2, lower bound": {"window": 16, "gate": "hgrn2", "gate_lower_bound": 0.3},
    "gsa": {"window": 16, "gate": "gsa", "pool_size": 4},
    "mamba2": {"window": 16, "gate": "mamba2"},
    "mlstm": {"window": 16, "gate": "mlstm", "normalize": True},
    "rwkv6": {"window": 16, "gate": "rwkv6"},
    "no gate": {"window": 16, "gate": "none"},
    "retention": {"window": 16, "gate": "retention"},
    "gate from q": {"window": 16, "gate_source": "q"},
    "gate from v": {"window": 16, "gate_source": "v"},
    "gate from a projection": {"window": 16, "gate_source": "projection"},
    "learned maps": {"window": 16, "feature_map": "hedgehog"},
    "window only": {"window": 16, "alpha": 0.0, "beta": 1.0},
    "window and sinks": {"window": 16, "alpha": 0.0, "beta": 1.0, "sinks": 3},
    "all, with sinks": {"window": 16, "sinks": 3},
    "no window": {"beta": 0.0, "alpha": 1.0},
    "hybrid": {"window": 16, "full_attention_every": 2},
    "window of one": {"window": 1},
    "lolcats": {"mechanism": "lolcats", "window": 16},
    "supra": {"mechanism": "supra"},
}
"""Every kind of layer, by what is special about it."""

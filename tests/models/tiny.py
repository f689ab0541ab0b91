"""Tiny random networks of the architectures that are supported by name (no downloads)."""

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCABULARY = 96
COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
GATED = {"intermediate_size": 64, "num_key_value_heads": 2}
SPECIFIC = {
    "llama": {**GATED, "tie_word_embeddings": True},
    "qwen2": GATED,
    "mistral": {**GATED, "sliding_window": 8, "head_dim": 8},
    "gemma3": {
        **GATED,
        "head_dim": 8,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
}
ARCHITECTURES = list(SPECIFIC)


def tiny_model(architecture: str, **changes):
    """A random float32 model in evaluation mode, the same at every call."""
    kind = "gemma3_text" if architecture == "gemma3" else architecture
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CONFIG_MAPPING[kind](**{**COMMON, **tokens, **SPECIFIC[architecture], **changes})
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            # Default initialisation (std 0.02) is so small that all logits look alike.
            if "norm" not in name and parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tiny_tokens(rows: int, length: int):
    """Token ids `[rows, length]` from a fixed stream."""
    generator = torch.Generator().manual_seed(11)
    return torch.randint(3, VOCABULARY, (rows, length), generator=generator)

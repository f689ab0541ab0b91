"""What DePT's published code computed, and the tiny T5 that it computed with."""

from pathlib import Path

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

FILE = np.load(Path(__file__).parents[2] / "golden" / "adapt" / "dept.npz")
LENGTH, TOKENS, RANK, ALPHA = 12, 6, 4, 8.0


def tensor(name):
    return torch.from_numpy(FILE[name])


def t5():
    config = T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=FILE["t5.encoder.block.0.layer.1.DenseReluDense.wi.weight"].shape[0],
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval()
    state = {k.removeprefix("t5."): tensor(k) for k in FILE.files if k.startswith("t5.")}
    model.load_state_dict(state)
    return model.requires_grad_(False)


def inputs():
    return {
        "input_ids": tensor("dept.input_ids"),
        "attention_mask": tensor("dept.attention_mask").long(),
        "labels": tensor("dept.labels"),
    }

"""A small GPT trained from scratch on text, dense or Sparse Wide.

Fidelity
--------
The paper trains GPT-3 Small as Sparse Wide (no code released): projections of attention and
feed-forward parts masked; embeddings, head and norms dense. Here a Llama (rotary positions, gated
feed-forward) with tied embeddings over bytes, so that the vocabulary takes no share of the budget.
Chosen: the whole width grows, so attention products, embedding and head grow too; what they cost more
is taken from the masked layers, and the FLOPs of the whole network for one window stay equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from methods.fit.batches import Batches
from methods.fit.causal_lm import Windows, next_token_loss
from methods.fit.classifier import decayed, factor
from methods.fit.history import loss_rows
from methods.fit.loop import fit
from methods.measure.perplexity import text_windows
from methods.models.language import LanguageModel
from methods.prune import sizes
from methods.prune.sparse_training import detach
from methods.prune.train import costs, noted, recipe, sparse_training, updates
from methods.prune.transform import Plan, counted, transform
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from methods.prune.params import SparseIFTLanguage
    from methods.run.context import Context

END = "<|end|>"


def apply(
    base: None, data: dict[str, list[Any]], params: SparseIFTLanguage, context: Context
) -> LanguageModel:
    """A Llama over bytes, trained on windows of the first text of the role ``train``.

    Metrics: `updates` and costs, see :func:`methods.prune.train.costs`. The history has (step, loss).
    Raises RetrofitError: no text, one shorter than a window, a loss that is not finite.
    """
    text = data["train"][0]
    if not hasattr(text, "documents"):
        raise RetrofitError(f"sparse_ift_language trains on text, and {text.name} has none")
    tokenizer = byte_tokenizer(params.length)
    _, tokens = text_windows(text, tokenizer, params.length, None)
    windows = Windows(tokens, tokens)
    model, plan = _model(params, context)
    model.to(context.device)
    batches = Batches(len(tokens), min(params.batch, len(tokens)), context.seed_for("windows"))
    optimizer = torch.optim.AdamW(
        decayed(model, params.weight_decay), lr=params.learning_rate, betas=(0.9, 0.95), fused=True
    )
    steps = updates(params, plan, params.updates)
    sparse_training(model, optimizer, steps, params, context)
    fit(
        model,
        lambda net, step: next_token_loss(net, windows, batches.indices(step), context.device),
        optimizer,
        steps=steps,
        context=context,
        learning_rate=lambda step: params.learning_rate * factor(step, steps, params.warm_up),
        clip_norm=params.clip_norm,
        precision=params.precision,
        after_step=loss_rows(context, steps),
    )
    metrics = costs(plan, params, steps, params.updates, params.batch, model, optimizer, 2)
    detach(model).requires_grad_(False).eval()
    return LanguageModel(model.cpu(), tokenizer, notes={"sparse_ift": noted(plan)}, metrics=metrics)


def byte_tokenizer(length: int) -> PreTrainedTokenizerBase:
    """Text to the 256 bytes of its UTF-8, and an end token that texts do not hold."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, model_max_length=length
    )


def network(width: int, params: SparseIFTLanguage) -> nn.Module:
    """A Llama of that width with the depth, heads, ratio and length of the parameters; fresh weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=257,
        hidden_size=width,
        intermediate_size=round(params.ratio * width),
        num_hidden_layers=params.depth,
        num_attention_heads=params.heads,
        num_key_value_heads=params.heads,
        max_position_embeddings=params.length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=256,
    )
    return LlamaForCausalLM(config)


def _model(params: SparseIFTLanguage, context: Context) -> tuple[nn.Module, Plan]:
    """A fresh model, transformed, with the plan."""
    example = {"input_ids": torch.zeros(1, params.length, dtype=torch.int64), "use_cache": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed_for("initial weights"))
        dense = network(params.width, params)
        if params.family == "dense":
            cost = counted(dense, example)
            return dense, Plan(recipe(params, "dense"), [], cost, cost)
        chosen = recipe(params, params.family)
        width = sizes.widened(params.width, sizes.wide_factor(chosen.sparsity))
        # Rotary positions turn pairs of features within a head.
        wide = network(width - width % (2 * params.heads), params)
    return transform(
        dense,
        example,
        chosen,
        seed=context.seed_for("masks"),
        start="full" if params.update == "gradual" else "random",
        wide=wide,
    )

"""Attention transfer: feature maps learn to give what softmax attention gives (LoLCATs, stage 1).

Every layer is a regression of its own: the base's hidden states go in, the softmax heads' outputs are
the target, and hidden states travel on as the base computes them. So each layer's features are freed
before the next layer's exist.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, scaled_dot_product_attention

from methods.fit.batches import Batches
from methods.fit.causal_lm import Trained, frozen_in, training_windows
from methods.fit.checkpoints import pack
from methods.fit.loop import fit
from methods.linearize.attention import Heads, LinearizedAttention, Span
from methods.run.checkpoint import Checkpoint

if TYPE_CHECKING:
    from methods.linearize.modeling import LinearizedForCausalLM
    from methods.linearize.params import Lolcats
    from methods.models.language import LanguageModel
    from methods.run.context import Context

FACTOR = 1000.0
"""Of the squared error, as published; Adam does not feel it, the gradient bound would."""


def softmax_heads(layer: LinearizedAttention, heads: Heads) -> Tensor:
    """What the base's attention gives before its output projection, `[B, H, T, d]`."""
    return scaled_dot_product_attention(
        heads.turned_q,
        heads.turned_k,
        heads.v,
        is_causal=True,
        scale=layer.scale,
        enable_gqa=layer.groups > 1,
    )


def transfer_loss(model: LinearizedForCausalLM, tokens: Tensor) -> Tensor:
    """Mean over layers of 1000 times the squared error, `[B, T]` token ids to a scalar.

    The gradients are accumulated here, layer by layer; the scalar returned carries none of them.
    """
    backbone = model.model
    with torch.no_grad():
        hidden = backbone.embed_tokens(tokens)
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        angles = backbone.rotary_emb(hidden, position_ids=places)
    total = 0.0
    for block in backbone.layers:
        layer = block.self_attn
        with torch.no_grad():
            heads = layer.project(block.input_layernorm(hidden), angles)
            target = softmax_heads(layer, heads)
        error = mse_loss(layer.mix(heads, Span(), None, None).float(), target.float())
        (FACTOR * error / len(backbone.layers)).backward()
        total += FACTOR * error.detach() / len(backbone.layers)
        with torch.no_grad():
            hidden = hidden + layer.o_proj(target.transpose(1, 2).flatten(2))
            hidden = hidden + block.mlp(block.post_attention_layernorm(hidden))
    return total


def transfer(
    base: LanguageModel,
    model: LinearizedForCausalLM,
    data: dict,
    params: Lolcats,
    context: Context,
    added: set[str],
) -> None:
    """Train the `added` parameters in place. Raises RetrofitError as `fit` and the windows do."""
    tuning = params.train
    updates = params.transfer_tokens // (tuning.batch * tuning.length)
    if not updates:
        return
    context = first_stage(context)
    windows = training_windows(data, base.tokenizer, tuning)
    batches = Batches(len(windows.tokens), tuning.batch, context.seed_for("transfer windows"))
    model.to(context.device)
    with frozen_in(model, getattr(torch, tuning.compute_dtype), added):
        trained = Trained(model)
        anchor = trained.parts[0]

        def loss(net: nn.Module, step: int) -> Tensor:
            rows = windows.tokens[batches.indices(step)].to(context.device)
            # The loop wants something to differentiate; the gradients are there already.
            return transfer_loss(net.model, rows) + 0.0 * anchor.sum()

        optimizer = torch.optim.AdamW(
            trained.parts, lr=params.transfer_learning_rate, weight_decay=tuning.weight_decay
        )
        fit(
            trained,
            loss,
            optimizer,
            steps=updates,
            context=context,
            after_step=lambda step, value: context.record(
                transfer_tokens=step * tuning.batch * tuning.length, transfer=float(value)
            ),
            label=f"attention transfer, {params.transfer_tokens} tokens",
        )
        # What comes after may be killed too, and must find this stage done.
        context.checkpoint.save(*pack(trained, optimizer, {}, context, updates))


def first_stage(context: Context) -> Context:
    """The context of a stage that leaves the run's own checkpoint to the stage after it."""
    whole = context.checkpoint.directory
    part = None if whole is None else whole / "transfer"
    return replace(context, checkpoint=Checkpoint(part, context.history))

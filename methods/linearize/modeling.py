"""The linearised model as transformers models, registered with its Auto classes.

Importing this module is all that `AutoModelForCausalLM.from_pretrained` needs. Apart from the
attention layers everything is transformers' Llama: norms, feed-forward parts, rotary positions, head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaMLP,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from methods.linearize.attention import Liger, LinearizedAttention, Lolcats, Span, Supra, attention
from methods.linearize.configuration import FULL, LinearizedConfig

WINDOW_FACTOR = -2.197225
"""logit(0.1), with which LoLCATs starts the weight of its window."""


class LinearizedDecoderLayer(LlamaDecoderLayer):
    """Llama's block around another attention."""

    def __init__(self, config: LinearizedConfig, layer_idx: int):
        nn.Module.__init__(self)
        self.hidden_size = config.hidden_size
        self.self_attn = attention(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)


class LinearizedPreTrainedModel(LlamaPreTrainedModel):
    """What transformers must know about both models."""

    config: LinearizedConfig
    config_class = LinearizedConfig
    _no_split_modules = ["LinearizedDecoderLayer"]
    _can_compile_fullgraph = False
    _supports_flash_attn = False
    _supports_flex_attn = False
    _is_stateful = True
    _can_record_outputs = {"hidden_states": LinearizedDecoderLayer}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LinearizedAttention):
            reset_added(module)


@torch.no_grad()
def reset_added(layer: LinearizedAttention) -> None:
    """Give what a mechanism adds to the base its first values.

    Feature maps of full width start as the identity (LoLCATs, SUPRA with no bias), those that halve
    the width with orthonormal columns from torch's default generator.
    """
    if isinstance(layer, Supra):
        for name in ("q", "k"):
            nn.init.eye_(getattr(layer, f"feature_{name}"))
            nn.init.zeros_(getattr(layer, f"feature_{name}_bias"))
    elif isinstance(layer, (Lolcats, Liger)) and hasattr(layer, "feature_q"):
        for weight in (layer.feature_q, layer.feature_k):
            for head in weight:
                if head.shape[0] == head.shape[1]:
                    nn.init.eye_(head)
                else:
                    nn.init.orthogonal_(head)
    if isinstance(layer, Lolcats):
        nn.init.constant_(layer.window_factor, WINDOW_FACTOR)


def added_parameters(layer: LinearizedAttention) -> list[str]:
    """Names, inside the layer, of the parameters that the base does not have."""
    kept = ("q_proj", "k_proj", "v_proj", "o_proj")
    return [n for n, _ in layer.named_parameters() if n.partition(".")[0] not in kept]


class LinearizedModel(LinearizedPreTrainedModel, LlamaModel):
    """Embedding, blocks and last norm."""

    def __init__(self, config: LinearizedConfig):
        LlamaPreTrainedModel.__init__(self, config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            LinearizedDecoderLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: object,
    ) -> BaseModelOutputWithPast:
        """As in Llama. `position_ids` that start again at 0 within a row mean packed documents.

        attention_mask: `[B, past + T]`, 0 for padding, which may stand anywhere before the text.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, one of them")
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = hidden.shape[1]
        span = span_of(attention_mask, position_ids, length, seen)
        if position_ids is None:
            position_ids = (torch.arange(length, device=hidden.device) + seen)[None]
        mask = None
        if FULL in self.config.layer_types:
            mask = create_causal_mask(
                config=self.config,
                inputs_embeds=hidden,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
            )
        angles = self.rotary_emb(hidden, position_ids=position_ids)
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=mask,
                position_embeddings=angles,
                past_key_values=past_key_values,
                span=span,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values
        )


def span_of(
    attention_mask: Tensor | None, position_ids: Tensor | None, length: int, seen: int
) -> Span | None:
    """What the masks and positions say about the last `length` tokens; None: nothing special."""
    valid = None
    if attention_mask is not None:
        if attention_mask.dim() != 2:
            raise ValueError("a linearised model takes an attention mask [batch, tokens]")
        valid = attention_mask[:, -length:].bool()
        if bool(valid.all()):
            valid = None
    document = None
    if position_ids is not None and not seen and length > 1:
        starts = position_ids[:, 1:] == 0
        if valid is not None:
            # Padding has position 0 as well, and so does the first token behind it.
            starts = starts & valid[:, 1:] & valid[:, :-1]
        if bool(starts.any()):
            document = torch.nn.functional.pad(starts.cumsum(1), (1, 0))
    return None if valid is None and document is None else Span(valid, document)


class LinearizedForCausalLM(LinearizedPreTrainedModel, LlamaForCausalLM):
    """The model with its output head; `generate`, labels and `logits_to_keep` as in Llama."""

    def __init__(self, config: LinearizedConfig):
        LlamaPreTrainedModel.__init__(self, config)
        self.model = LinearizedModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


AutoModel.register(LinearizedConfig, LinearizedModel)
AutoModelForCausalLM.register(LinearizedConfig, LinearizedForCausalLM)

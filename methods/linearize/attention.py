"""The attention layers of linearised models: projections of the base, another way to mix tokens.

`Liger` is alpha times a gated recurrence plus beta times window attention (2503.01496, eq. 9 to 11);
`Lolcats` is one softmax whose keys beyond the window are seen through learned features (2410.10254,
eq. 7); `Supra` is a recurrence with a fixed decay, normalised per head (2405.06640). `Full` is the
base's own attention, for hybrid models and as the teacher of an attention transfer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from methods.linearize import features, gates, recurrence
from methods.linearize.cache import WindowAndState
from methods.linearize.configuration import FULL, LinearizedConfig
from methods.linearize.window import NEVER, Keys, first_keys, window_attention, window_mass
from methods.study.errors import RetrofitError


@dataclass
class Span:
    """Who is who among the tokens of one forward pass. None: all are real, one document each.

    valid: bool `[B, T]`, False for padding. document: int64 `[B, T]`, rising at each document's start.
    """

    valid: Tensor | None = None
    document: Tensor | None = None

    @property
    def starts(self) -> Tensor | None:
        """bool `[B, T]`: first tokens of documents but the first one."""
        if self.document is None:
            return None
        first = self.document[:, :1]
        return self.document > torch.cat([first, self.document[:, :-1]], 1)


@dataclass
class Heads:
    """Projections of one layer, heads first: raw, and turned by their positions."""

    q: Tensor
    k: Tensor
    v: Tensor
    turned_q: Tensor
    turned_k: Tensor


class LinearizedAttention(nn.Module, ABC):
    """What all layers share: the base's projections with the base's names, and grouped heads.

    The state dict of the base loads as it is; what a mechanism adds has names of its own.
    """

    def __init__(self, config: LinearizedConfig, layer_idx: int):
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
        self.groups = self.heads // self.kv_heads
        self.scale = self.head_dim**-0.5
        width, bias = config.hidden_size, config.qkv_bias
        self.q_proj = nn.Linear(width, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, self.kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, self.kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, width, bias=config.output_bias)

    def project(self, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> Heads:
        """q `[B, H, T, d]`, k and v `[B, Hkv, T, d]` of hidden states `[B, T, width]`."""
        q, k, v = (
            layer(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return Heads(q, k, v, *apply_rotary_pos_emb(q, k, *position_embeddings))

    def spread(self, x: Tensor) -> Tensor:
        """Each of the `Hkv` heads for all query heads that share it."""
        return x if self.groups == 1 else x.repeat_interleave(self.groups, dim=1)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: object | None = None,
        span: Span | None = None,
        **_: object,
    ) -> tuple[Tensor, None]:
        """Hidden states `[B, T, width]` to the same; the second of the pair is transformers' habit."""
        heads = self.project(hidden_states, position_embeddings)
        mixed = self.mix(heads, span or Span(), attention_mask, past_key_values)
        mixed = mixed.to(hidden_states.dtype).transpose(1, 2).flatten(2)
        return self.o_proj(mixed), None

    @abstractmethod
    def mix(self, heads: Heads, span: Span, mask: Tensor | None, cache: object) -> Tensor:
        """The heads' outputs `[B, H, T, d]`."""

    def layer_of(self, cache: object | None) -> WindowAndState | None:
        """This layer's part of a cache; RetrofitError for a cache made for another model."""
        if cache is None:
            return None
        layers = cache.layers
        if self.layer_idx >= len(layers) or not isinstance(layers[self.layer_idx], WindowAndState):
            raise RetrofitError(
                "a linearised model needs the cache of its own configuration: "
                "DynamicCache(config=model.config), or leave past_key_values out"
            )
        return layers[self.layer_idx]


class Full(LinearizedAttention):
    """Softmax attention over all keys, as in the base."""

    def mix(self, heads: Heads, span: Span, mask: Tensor | None, cache: object) -> Tensor:
        """Needs the causal mask only for padding, packing or a cache."""
        k, v = heads.turned_k, heads.v
        if cache is not None:
            k, v = cache.update(k, v, self.layer_idx)
        return torch.nn.functional.scaled_dot_product_attention(
            heads.turned_q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and heads.q.shape[2] > 1,
            scale=self.scale,
            enable_gqa=self.groups > 1,
        )


def _behind(past: WindowAndState | None, new: Keys, window: int) -> Keys | None:
    """The keys before the new ones, where there are any; both then say which are valid, or neither."""
    behind = None if past is None else past.past(window - 1)
    if behind is not None and (behind.valid is None) != (new.valid is None):
        for keys in (behind, new):
            if keys.valid is None:
                shape = keys.k.shape[0], keys.k.shape[2]
                keys.valid = torch.ones(shape, dtype=torch.bool, device=keys.k.device)
    return behind


def _one_token(
    layer: LinearizedAttention, heads: Heads, ring: WindowAndState, sinks: int = 0
) -> tuple[Tensor, Tensor]:
    """Window attention of one token whose key is in the ring already: no copy, no order.

    The attention `[B, H, 1, d]` float32, and the sum of its weights relative to the largest.
    """
    seen = min(ring.seen, ring.window)
    q = heads.turned_q.view(-1, layer.kv_heads, layer.groups, layer.head_dim)
    k, v = ring.keys[:, :, :seen], ring.values[:, :, :seen]
    scores = (q @ k.mT).float() * layer.scale
    if ring.padded:
        scores = scores.masked_fill(~ring.valid[:, None, None, :seen], NEVER)
    if sinks and ring.seen > ring.window:
        far = (q @ ring.sink_keys.mT).float() * layer.scale
        inside = ring.sink_index > ring.seen - 1 - ring.window
        hidden = (inside | (ring.sink_index < 0))[:, None, None, :]
        scores = torch.cat([scores, far.masked_fill(hidden, NEVER)], -1)
        v = torch.cat([v, ring.sink_values], 2)
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    mass = weights.sum(-1, keepdim=True)
    out = ((weights / mass).to(v.dtype) @ v).float()
    return tuple(part.flatten(1, 2).unsqueeze(2) for part in (out, mass))


class Liger(LinearizedAttention):
    """alpha times a gated recurrence plus beta times attention over a window.

    The recurrence reads queries and keys before their rotation; its gates come from the keys
    (`gate_source`), so that nothing is added to the base. `projection` (the paper's ablation) and
    `hedgehog` feature maps add parameters.
    """

    def __init__(self, config: LinearizedConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.row = gates.structure(config.gate)
        kv_width = self.kv_heads * self.head_dim
        if config.gate_source == "projection" and config.alpha:
            self.gate_proj = nn.Linear(config.hidden_size, kv_width, bias=False)
        if config.feature_map == "hedgehog" and config.alpha:
            if self.head_dim % 2:
                raise RetrofitError(f"feature_map hedgehog halves the head width {self.head_dim}")
            shape = (self.heads, self.head_dim, self.head_dim // 2)
            self.feature_q = nn.Parameter(torch.empty(shape))
            self.feature_k = nn.Parameter(torch.empty(shape))
        slots = config.pool_size or self.head_dim
        self.pool_size = slots if self.row.shape == "slot" else config.pool_size

    def forward(self, hidden_states: Tensor, *args: object, **kwargs: object):
        """As in the base class; a gate of its own projection reads the hidden states."""
        if hasattr(self, "gate_proj"):
            weight = self.gate_proj.weight
            logits = torch.nn.functional.linear(hidden_states.to(weight.dtype), weight)
            logits = logits.unflatten(-1, (-1, self.head_dim))
            self._own_logits = logits.transpose(1, 2)
        return super().forward(hidden_states, *args, **kwargs)

    def mix(self, heads: Heads, span: Span, mask: Tensor | None, cache: object) -> Tensor:
        """The recurrence and the window, mixed; float32 where there is a recurrence."""
        config, past = self.config, self.layer_of(cache)
        new = Keys(heads.turned_k, heads.v, span.valid)
        one = past is not None and past.seen > 0 and heads.q.shape[2] == 1
        if past is not None and config.sinks and not one:
            past.note_sinks(new, config.window, config.sinks)
        mixed = None
        if config.alpha:
            mixed = config.alpha * self.recurrence(heads, span, past)
        if config.beta:
            if one:
                past.append(new, config.window)
                near, _ = _one_token(self, heads, past, config.sinks)
            else:
                near = self.near(heads, span, past)
            near = near if config.beta == 1 else config.beta * near
            mixed = near if mixed is None else mixed + near
        if past is not None and not (one and config.beta):
            past.append(new, config.window)
        return mixed

    def near(self, heads: Heads, span: Span, past: WindowAndState | None) -> Tensor:
        """Window attention of one pass. The new keys are not yet in the ring, but count as sinks."""
        window, count = self.config.window, self.config.sinks
        new = Keys(heads.turned_k, heads.v, span.valid, span.document)
        behind, first = _behind(past, new, window), None
        if count and (past is None or not past.seen):
            first = first_keys(new, count)
        elif count:
            first = past.sinks(0 if behind is None else behind.k.shape[2])
        return window_attention(heads.turned_q, behind, new, window, self.scale, first)

    def gate_logits(self, heads: Heads) -> Tensor:
        """The pooled projection that the gates are made of: `[B, Hkv, T, d]`, or H heads and the
        pooled width.
        """
        source = {"k": heads.k, "q": heads.q, "v": heads.v}.get(self.config.gate_source)
        return gates.pool(self._own_logits if source is None else source, self.pool_size)

    def recurrence(self, heads: Heads, span: Span, past: WindowAndState | None) -> Tensor:
        """The gated recurrence's outputs `[B, H, T, d]`, float32."""
        config, row = self.config, self.row
        gate = gates.log_gates(
            config.gate, self.gate_logits(heads), config.gate_normalizer, config.gate_lower_bound
        )
        q, k, v = heads.q, heads.k, heads.v
        # Keys are shared by the query heads of a group unless something of each head's own is in them.
        if config.feature_map == "hedgehog" or config.gate_source == "q":
            k, v = self.spread(k), self.spread(v)
            if gate is not None and gate.shape[1] < self.heads:
                gate = self.spread(gate)
        if config.feature_map == "hedgehog":
            q, k = features.hedgehog(q, self.feature_q), features.hedgehog(k, self.feature_k)
        else:
            q = q.float().softmax(-1) if row.query == "softmax" else q.float()
            k = k.float().softmax(-1) if row.key == "softmax" else k.float()
            if row.key == "gate":
                k = gates.tied_key(gate)
        slot = gates.tied_key(gate) if row.shape == "slot" else None
        k, gate, slot = _masked(k, gate, slot, span)
        v = v.float()
        if config.normalize:  # a column of ones sums the weights
            v = torch.cat([v, v.new_ones(*v.shape[:3], 1)], -1)
        if slot is not None:
            out = self._slots(q, k, v, slot, gate, past)
        else:
            out = _run(q, k, v, gate, past)
        if config.normalize:
            out = out[..., :-1] / out[..., -1:].clamp(min=1e-6)
        return out

    def _slots(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        slot: Tensor,
        gate: Tensor,
        past: WindowAndState | None,
    ) -> Tensor:
        states = None
        if past is not None and "slots" in past.states:
            states = past.states["slots"], past.states["state"]
        form = recurrence.recurrent if q.shape[2] == 1 else recurrence.chunked
        out, (first, second) = recurrence.slots(q, k, v, slot, gate, states, form)
        if past is not None:
            past.states |= {"slots": first, "state": second}
        return out


def _masked(
    k: Tensor, gate: Tensor | None, slot: Tensor | None, span: Span
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Padding adds nothing and forgets nothing; a document's first token forgets everything."""
    if span.valid is not None:
        real = span.valid[:, None, :, None]
        k = k * real
        slot = None if slot is None else slot * real
        gate = None if gate is None else gate * real
    starts = span.starts
    if starts is not None:
        if gate is None:
            gate = k.new_zeros(*k.shape[:3], 1)
        gate = gate + recurrence.FORGET * starts[:, None, :, None]
    return k, gate, slot


def _run(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor | None, past: WindowAndState | None
) -> Tensor:
    """The recurrence over T tokens, from and into the cache."""
    state = None if past is None else past.states.get("state")
    if state is not None and q.shape[2] == 1:
        squeezed = None if gate is None else gate[:, :, 0]
        return recurrence.step(q[:, :, 0], k[:, :, 0], v[:, :, 0], squeezed, state).unsqueeze(2)
    out, state = recurrence.chunked(q, k, v, gate, state)
    if past is not None:
        past.states["state"] = state
    return out


class Lolcats(LinearizedAttention):
    """Softmax over the window joined, in one normalisation, with learned features of what is older."""

    def __init__(self, config: LinearizedConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        width = config.feature_dim or self.head_dim
        self.feature_q = nn.Parameter(torch.empty(self.heads, self.head_dim, width))
        self.feature_k = nn.Parameter(torch.empty(self.heads, self.head_dim, width))
        self.window_factor = nn.Parameter(torch.empty(self.heads))

    def mix(self, heads: Heads, span: Span, mask: Tensor | None, cache: object) -> Tensor:
        """(g sum_window e^(s - c) v + phi(q) S) / (g sum_window e^(s - c) + phi(q) z)."""
        past, window = self.layer_of(cache), self.config.window
        if span.document is not None:
            raise RetrofitError("lolcats does not take packed documents: give one a row")
        new = Keys(heads.turned_k, heads.v, span.valid)
        one = past is not None and past.seen > 0 and heads.q.shape[2] == 1
        leaving = self._leaving(new, past)
        if one:
            past.append(new, window)
            near, mass = _one_token(self, heads, past)
        else:
            keys = Keys(heads.turned_k, heads.v, span.valid)
            behind = _behind(past, keys, window)
            near, mass = window_mass(heads.turned_q, behind, keys, window, self.scale)
            if past is not None:
                past.append(new, window)
        k = features.hedgehog(self.spread(leaving.k), self.feature_k)
        if leaving.valid is not None:
            k = k * leaving.valid[:, None, :, None]
        v = self.spread(leaving.v).float()
        v = torch.cat([v, v.new_ones(*v.shape[:3], 1)], -1)
        far = _run(features.hedgehog(heads.turned_q, self.feature_q), k, v, None, past)
        factor = self.window_factor.float().sigmoid().view(1, -1, 1, 1)
        mass = factor * mass
        return (mass * near + far[..., :-1]) / (mass + far[..., -1:])

    def _leaving(self, new: Keys, past: WindowAndState | None) -> Keys:
        """For each new token the key that leaves its window: `window` tokens earlier, or none yet."""
        window, length = self.config.window, new.k.shape[2]
        behind = None if past is None else past.past(window)
        count = 0 if behind is None else behind.k.shape[2]
        before = window - count
        valid = torch.zeros(new.k.shape[0], length, dtype=torch.bool, device=new.k.device)
        k, v = torch.zeros_like(new.k), torch.zeros_like(new.v)
        of_past = min(max(length - before, 0), count)
        if of_past:
            k[:, :, before : before + of_past] = behind.k[:, :, :of_past]
            v[:, :, before : before + of_past] = behind.v[:, :, :of_past]
            there = slice(before, before + of_past)
            valid[:, there] = True if behind.valid is None else behind.valid[:, :of_past]
        if length > window:
            of_new = length - window
            k = torch.cat([k[:, :, :window], new.k[:, :, :of_new]], 2)
            v = torch.cat([v[:, :, :window], new.v[:, :, :of_new]], 2)
            valid[:, window:] = True if new.valid is None else new.valid[:, :of_new]
        return Keys(k, v, valid)


class Supra(LinearizedAttention):
    """A recurrence over ReLU features with one fixed decay for each head; no window, no softmax."""

    def __init__(self, config: LinearizedConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        for name, heads in (("q", self.heads), ("k", self.kv_heads)):
            width = heads * self.head_dim
            setattr(self, f"feature_{name}", nn.Parameter(torch.empty(width, width)))
            setattr(self, f"feature_{name}_bias", nn.Parameter(torch.empty(width)))

    def mix(self, heads: Heads, span: Span, mask: Tensor | None, cache: object) -> Tensor:
        """Features first, rotation after them; every head's output is normalised."""
        past = self.layer_of(cache)
        q = features.relu_map(heads.q, self.feature_q, self.feature_q_bias)
        k = features.relu_map(heads.k, self.feature_k, self.feature_k_bias)
        q, k = apply_rotary_pos_emb(q, k, *self._angles)
        decay = features.alibi_decay(self.heads, q.device).expand(*q.shape[:3], 1)
        k, decay, _ = _masked(self.spread(k).float(), decay, None, span)
        out = _run(q.float() * self.scale, k, self.spread(heads.v), decay, past)
        if past is not None:
            past.append(Keys(heads.k[..., :1], heads.v[..., :1], span.valid), 1)
        return features.head_norm(out)

    def project(self, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor]) -> Heads:
        """As in the base class; the angles are kept for the features."""
        self._angles = position_embeddings
        return super().project(hidden, position_embeddings)


MECHANISMS: dict[str, type[LinearizedAttention]] = {
    "liger": Liger,
    "lolcats": Lolcats,
    "supra": Supra,
}


def attention(config: LinearizedConfig, layer_idx: int) -> LinearizedAttention:
    """The layer that the configuration asks for at this depth."""
    if config.layer_types[layer_idx] == FULL:
        return Full(config, layer_idx)
    return MECHANISMS[config.mechanism](config, layer_idx)

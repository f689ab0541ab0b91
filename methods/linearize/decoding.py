"""Decoding one sequence fast: the step of a linearised model, in plain PyTorch, over buffers made once.

The step is that of the linearised module (gla gates from the keys, window attention, alpha and beta),
written so that little stands between the weight's bytes and the cores:

- q, k and v are one product, gate and up are one; products write where they are wanted, and those
  that end a branch add to the residual (`addmm_`), so that no operation only moves data.
- RMSNorm's weight is folded into the product behind it; what is left is a dot product and a scale.
- Channels of a head are reordered from halves to neighbours (q, k alike, so scores and the state's
  read-out are what they were), which makes the rotation one complex product, in place. The scale
  1/sqrt(d) of the scores sits in the rotation of the queries.
- Keys and values stand in a ring `[window, 2 Hkv d]`; a token's row is one copy. Softmax over keys
  does not care for their order, so the ring is never unrolled.
- The state is kept for each key head `[Hkv, d, d]`: query heads of a group share it.

Views are made once, at the first step: a view costs as much as a small operation.

*Numerics.* float32 products differ from the module's by summation order and by the folded norms only.
`weights="bfloat16"`, `"float16"` and `"int8"` are approximations of the products (see `PRODUCTS`);
everything between products stays float32. The gate is sigmoid(k)^(1/n) as it stands, not through its
logarithm: it differs where sigmoid(k) underflows, at k < -87, where the state is wiped in either form
only to within exp(-87/16) = 0.4 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from methods.linearize.gates import structure
from methods.linearize.window import NEVER
from methods.study.errors import RetrofitError, choices

if TYPE_CHECKING:
    from methods.linearize.modeling import LinearizedForCausalLM


CHUNK = 1024
"""Tokens of a prompt read at once."""


@dataclass
class LayerWeights:
    """Weights of one block, `[out, in]` float32, no biases, in transformers' order of channels."""

    input_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    post_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Shape:
    """What the tensors do not say. alpha 0: window only. gate_normalizer: of the log gate."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int = 64
    alpha: float = 0.5
    beta: float = 0.5
    gate_normalizer: float = 16.0
    norm_eps: float = 1e-5
    rotary_scale: float = 1.0


class Float32:
    """Exact product of a column: y = W x, or h += W x. One matrix-vector call, no allocation."""

    def __init__(self, weight: Tensor):
        self.weight = weight.contiguous()

    def into(self, x: Tensor, out: Tensor) -> None:
        """x `[in, 1]`, out `[out, 1]`."""
        torch.mm(self.weight, x, out=out)

    def add(self, x: Tensor, h: Tensor) -> None:
        """h `[out, 1]` += W x."""
        h.addmm_(self.weight, x)


class _Row:
    """Products that want a row and return a new one. Subclasses set `self.row`."""

    row: Callable[[Tensor], Tensor]

    def into(self, x: Tensor, out: Tensor) -> None:
        out.copy_(self.row(x.view(1, -1)).view(-1, 1))

    def add(self, x: Tensor, h: Tensor) -> None:
        h.add_(self.row(x.view(1, -1)).view(-1, 1))


class BFloat16(_Row):
    """bfloat16 weights and inputs, float32 accumulation in oneDNN, weights laid out beforehand.

    The result is rounded to bfloat16 once more: 8 bits of mantissa at each product.
    """

    def __init__(self, weight: Tensor):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), 1)
        linear = torch.ops.mkldnn._linear_pointwise
        self.row = lambda x: linear(x.bfloat16(), packed, None, "none", [], "")


class Float16(_Row):
    """float16 weights (11 bits), float32 inputs, accumulation and results, in FBGEMM (x86 only)."""

    def __init__(self, weight: Tensor):
        packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), None)
        linear = torch.ops.quantized.linear_dynamic_fp16
        self.row = lambda x: linear(x, packed)


class Int8(_Row):
    """int8 weights, a scale for each row, and inputs rounded to 8 bits per call, in FBGEMM (x86)."""

    def __init__(self, weight: Tensor):
        scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
        zero = torch.zeros(weight.shape[0], dtype=torch.long)
        quantized = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(quantized, None)
        linear = torch.ops.quantized.linear_dynamic
        self.row = lambda x: linear(x, packed, reduce_range=False)


PRODUCTS = {"float32": Float32, "bfloat16": BFloat16, "float16": Float16, "int8": Int8}


def neighbours(heads: int, d: int) -> Tensor:
    """int64 `[heads d]`: rows of a projection so that the two channels of a rotation are neighbours."""
    pair = torch.arange(d).view(2, d // 2).t().flatten()
    return (torch.arange(heads)[:, None] * d + pair).flatten()


class _Layer:
    """Products, ring and state of one block."""

    def __init__(self, w: LayerWeights, shape: Shape, product: type):
        order_q = neighbours(shape.heads, shape.head_dim)
        order_k = neighbours(shape.kv_heads, shape.head_dim)
        qkv = torch.cat([w.q[order_q], w.k[order_k], w.v]) * w.input_norm
        self.qkv = product(qkv)
        self.o = product(w.o)
        self.gate_up = product(torch.cat([w.gate, w.up]) * w.post_norm)
        self.down = product(w.down)
        kv, d, n = shape.kv_heads, shape.head_dim, shape.window
        self.ring = torch.zeros(n, 2 * kv * d)
        self.slots = list(self.ring.unbind(0))
        self.keys = self.ring[:, : kv * d].view(n, kv, d).permute(1, 2, 0)  # [Hkv, d, window]
        self.values = self.ring[:, kv * d :].view(n, kv, d).transpose(0, 1)  # [Hkv, window, d]
        self.state = torch.zeros(kv, d, d)


class FastStep:
    """A linearised Llama as a decoder of one sequence. `step(token)` gives logits `[vocabulary]`.

    layers: one `LayerWeights` per block. embedding, head: `[vocabulary, width]` (may be the same
    tensor). final_norm: `[width]`. inv_freq: `[d / 2]`, angles per position. weights: a key of
    `PRODUCTS`; kept_head: leave the head's product in float32. The logits' buffer is overwritten by
    the next step.
    """

    @torch.inference_mode()
    def __init__(
        self,
        layers: list[LayerWeights],
        embedding: Tensor,
        final_norm: Tensor,
        head: Tensor,
        inv_freq: Tensor,
        shape: Shape,
        weights: str = "float32",
        kept_head: bool = False,
    ):
        if weights not in PRODUCTS:
            raise RetrofitError(f"there are no weights '{weights}'; {choices(weights, PRODUCTS)}")
        product = PRODUCTS[weights]
        self.shape, self.embedding, self.final_norm = shape, embedding, final_norm
        self.layers = [_Layer(w, shape, product) for w in layers]
        self.head = (Float32 if kept_head else product)(head)
        self.inv_freq = inv_freq
        width, inner = embedding.shape[1], layers[0].gate.shape[0]
        h, kv, d, n = shape.heads, shape.kv_heads, shape.head_dim, shape.window
        turned, group = (h + kv) * d, h // kv
        self.h = torch.zeros(width)
        self.x = torch.zeros(width)
        self.qkv = torch.zeros((h + 2 * kv) * d)
        self.pairs = torch.view_as_complex(self.qkv[:turned].view(h + kv, d // 2, 2))
        self.features = torch.zeros(h + kv, d)
        self.decay = torch.zeros(kv, d, 1)
        self.scores = torch.zeros(kv, group, n)
        self.weights = torch.zeros(kv, group, n)
        self.mixed = torch.zeros(kv, group, d)
        self.inner = torch.zeros(2 * inner)
        self.logits = torch.zeros(head.shape[0])
        self.angle = torch.zeros(d // 2)
        turn = torch.zeros(d // 2, 2)
        self.cos, self.sin = turn[:, 0], turn[:, 1]
        self.turn = torch.view_as_complex(turn)
        self.turns = torch.zeros(h + kv, d // 2, dtype=self.turn.dtype)
        # d is a power of 4 in most models, so that the scale is exact; else it rounds once more.
        scale = torch.ones(h + kv, 1)
        scale[:h] = d**-0.5
        self.turn_scale = scale * shape.rotary_scale
        self.mask = torch.zeros(1, 1, n)
        self.reset()

    @torch.inference_mode()
    def reset(self) -> None:
        """Forget everything."""
        self.seen = 0
        self.mask.fill_(NEVER)
        for layer in self.layers:
            layer.ring.zero_()
            layer.state.zero_()

    @torch.inference_mode()
    def load(self, index: int, keys: Tensor, values: Tensor, state: Tensor | None) -> None:
        """Take over layer `index` of a prefilled cache, whose slot of token t is t mod window.

        keys (rotated), values: `[Hkv, window, d]`; state: `[Hkv, d, d]`. Then set `resume(seen)`.
        """
        layer, d = self.layers[index], self.shape.head_dim
        order = neighbours(1, d)
        layer.keys.copy_(keys[..., order].mT)
        layer.values.copy_(values)
        if state is not None:
            layer.state.copy_(state[:, order])

    @torch.inference_mode()
    def resume(self, seen: int) -> None:
        """Say how many tokens the loaded layers have seen."""
        self.seen = seen
        self.mask.fill_(0 if seen >= self.shape.window else NEVER)
        self.mask[..., : min(seen, self.shape.window)] = 0

    def _bind(self) -> None:
        """Views of the buffers, made at the first step (and again after a copy of the object)."""
        s = self.shape
        h, kv, d = s.heads, s.kv_heads, s.head_dim
        q, group = h * d, h // kv
        inner = self.inner.shape[0] // 2
        self._views = (
            self.h, self.h.unsqueeze(1), self.x, self.x.unsqueeze(1), self.qkv.unsqueeze(1),
            self.qkv[:q].view(kv, group, d), self.qkv[: q + kv * d].view(h + kv, d),
            self.qkv[q : q + kv * d].view(kv, d, 1), self.qkv[q + kv * d :].view(kv, 1, d),
            self.qkv[q:], self.features[:h].view(kv, group, d), self.features[h:].view(kv, d, 1),
            self.mixed.view(-1, 1), self.inner.unsqueeze(1), self.inner[:inner],
            self.inner[inner:], self.inner[:inner].unsqueeze(1),
        )  # fmt: skip

    @torch.inference_mode()
    def step(self, token: int) -> Tensor:
        """Logits `[vocabulary]` of the token behind `token`; a buffer that the next step reuses."""
        if not hasattr(self, "_views"):
            self._bind()
        (
            h, h_col, x, x_col, qkv_col, q, raw, k_raw, v, kv_row,
            q_feature, k_feature, mixed_col, inner_col, gate, up, act_col,
        ) = self._views  # fmt: skip
        shape, decay, pairs, turns = self.shape, self.decay, self.pairs, self.turns
        scores, weights, mixed, features = self.scores, self.weights, self.mixed, self.features
        alpha, beta, eps = shape.alpha, shape.beta, shape.norm_eps
        width, power = h.shape[0], 1.0 / shape.gate_normalizer
        dot, mul, sqrt = torch.dot, torch.mul, math.sqrt
        softmax, bmm, baddbmm = torch._softmax, torch.bmm, torch.baddbmm
        silu, sigmoid = torch.nn.functional.silu, torch.sigmoid

        slot = self.seen % shape.window
        full = self.seen >= shape.window
        if not full:
            self.mask[..., slot] = 0
        mul(self.inv_freq, float(self.seen), out=self.angle)
        torch.cos(self.angle, out=self.cos)
        torch.sin(self.angle, out=self.sin)
        mul(self.turn, self.turn_scale, out=turns)
        h.copy_(self.embedding[token])
        for layer in self.layers:
            mul(h, 1.0 / sqrt(dot(h, h).item() / width + eps), out=x)
            layer.qkv.into(x_col, qkv_col)
            if alpha:
                softmax(raw, -1, False, out=features)
                sigmoid(k_raw, out=decay).pow_(power)
                layer.state.mul_(decay).addcmul_(k_feature, v)
                bmm(q_feature, layer.state, out=mixed)
            pairs.mul_(turns)
            layer.slots[slot].copy_(kv_row)
            if full:
                bmm(q, layer.keys, out=scores)
            else:
                baddbmm(self.mask, q, layer.keys, out=scores)
            softmax(scores, -1, False, out=weights)
            baddbmm(mixed, weights, layer.values, beta=alpha, alpha=beta, out=mixed)
            layer.o.add(mixed_col, h_col)
            mul(h, 1.0 / sqrt(dot(h, h).item() / width + eps), out=x)
            layer.gate_up.into(x_col, inner_col)
            silu(gate, inplace=True).mul_(up)
            layer.down.add(act_col, h_col)
        mul(h, 1.0 / sqrt(dot(h, h).item() / width + eps), out=x).mul_(self.final_norm)
        self.head.into(x_col, self.logits.unsqueeze(1))
        self.seen += 1
        return self.logits


def fast_step(
    model: LinearizedForCausalLM, prompt: Tensor, weights: str = "float32"
) -> tuple[FastStep, Tensor]:
    """A decoder that has read `prompt` `[1, T]`, and the logits `[vocabulary]` behind it.

    weights: a key of `PRODUCTS`. The prompt is read by the model itself, in chunks. Raises
    RetrofitError for what the step does not know: other gates than GLA's from the keys, sinks, learned
    maps, normalised recurrences, hybrid models, biases, several sequences.
    """
    config = model.config
    plain = {
        "mechanism": "liger",
        "gate": "gla",
        "gate_source": "k",
        "feature_map": "structure",
        "sinks": 0,
        "normalize": False,
        "full_attention_every": None,
        "qkv_bias": False,
        "output_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "gate_lower_bound": 0.0,
    }
    for key, value in plain.items():
        if getattr(config, key) != value:
            raise RetrofitError(
                f"the fast step does not know {key} = {getattr(config, key)!r} (only {value!r}); "
                "model.generate does"
            )
    if prompt.shape[0] != 1:
        raise RetrofitError(f"the fast step decodes one sequence, not {prompt.shape[0]}")
    body = model.model
    layers = [
        LayerWeights(
            block.input_layernorm.weight.detach(),
            *(getattr(block.self_attn, f"{n}_proj").weight.detach() for n in "qkvo"),
            block.post_attention_layernorm.weight.detach(),
            *(getattr(block.mlp, f"{n}_proj").weight.detach() for n in ("gate", "up", "down")),
        )
        for block in body.layers
    ]
    shape = Shape(
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
        window=config.window,
        alpha=config.alpha,
        beta=config.beta,
        gate_normalizer=config.gate_normalizer or structure("gla").normalizer,
        norm_eps=config.rms_norm_eps,
        rotary_scale=body.rotary_emb.attention_scaling,
    )
    decoder = FastStep(
        layers,
        body.embed_tokens.weight.detach(),
        body.norm.weight.detach(),
        model.lm_head.weight.detach(),
        body.rotary_emb.inv_freq.float(),
        shape,
        weights,
    )
    cache = DynamicCache(config=config)
    with torch.inference_mode():
        for part in prompt.split(CHUNK, dim=1):
            out = model(part, past_key_values=cache, use_cache=True, logits_to_keep=1)
    for index, layer in enumerate(cache.layers):
        state = layer.states.get("state")
        decoder.load(index, layer.keys[0], layer.values[0], None if state is None else state[0])
    decoder.resume(prompt.shape[1])
    return decoder, out.logits[0, -1]

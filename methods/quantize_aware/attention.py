"""Self-attention with quantised products, plain or with query and key as one matrix (QKR).

OFQ (2302.02210), section 4.2: with M_h = Wq_h^T Wk_h for each head, the scores are x_n M_h x_m. M is
what is rounded; Wq and Wk stay the parameters, so that no two rounded factors oscillate against each
other.

With a bias the scores are (Wq x_n + bq) (Wk x_m + bk). The terms with bk are the same for all keys m,
and the softmax does not see them. bq Wk x_m is not: the published block drops it with the bias, and
`exact` adds it back as r_h x_m with r_h = Wk_h^T bq_h.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from methods.quantize_aware.modules import (
    QuantizedLinear,
    WeightQuantizer,
    input_quantizer,
    weight_quantizer,
)
from methods.quantize_aware.plans import AttentionPlan, LayerPlan, Layout
from methods.study.errors import RetrofitError


def query_key_product(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """M_h = Wq_h^T Wk_h of all heads, `[heads * width, width]`, from two weights `[inner, width]`."""
    q, k = (weight.unflatten(0, (heads, -1)) for weight in (query, key))
    return torch.einsum("hec,hed->hcd", q, k).flatten(0, 1)


def query_bias_rows(bias: Tensor, key: Tensor, heads: int) -> Tensor:
    """r_h = Wk_h^T bq_h, `[heads, width]`, from bq `[inner]` and Wk `[inner, width]`."""
    return torch.einsum("he,hec->hc", bias.unflatten(0, (heads, -1)), key.unflatten(0, (heads, -1)))


def projections(module: nn.Module, layout: Layout) -> tuple[nn.Linear, ...]:
    """Query, key, value and output projection of an attention module, fused ones taken apart."""
    if layout == "separate":
        return module.q_proj, module.k_proj, module.v_proj, module.o_proj
    if layout == "fused":
        return *_thirds(module.qkv.weight, module.qkv.bias), module.proj
    return *_thirds(module.in_proj_weight, module.in_proj_bias), _plain(module.out_proj)


def _thirds(weight: Tensor, bias: Tensor | None) -> list[nn.Linear]:
    biases = [None] * 3 if bias is None else bias.detach().chunk(3)
    return [_linear(w, b) for w, b in zip(weight.detach().chunk(3), biases, strict=True)]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(*weight.shape[::-1], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer


def _plain(layer: nn.Linear) -> nn.Linear:
    # torch gives its multi-head attention a subclass of Linear that computes nothing else.
    return _linear(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


def layout_of(module: nn.Module) -> Layout | None:
    """Which kind of attention a module is, or None for something else.

    separate: ours (`q_proj, k_proj, v_proj, o_proj, heads`). fused: timm's (`qkv, proj, num_heads`).
    multihead: torch's, as torchvision's transformers call it. Raises RetrofitError for attention that
    could not be swapped without changing what it computes.
    """
    linear = {name for name, child in module.named_children() if isinstance(child, nn.Linear)}
    if {"q_proj", "k_proj", "v_proj", "o_proj"} <= linear and hasattr(module, "heads"):
        return "separate"
    if {"qkv", "proj"} <= linear and hasattr(module, "num_heads"):
        norms = [getattr(module, name, None) for name in ("q_norm", "k_norm", "norm")]
        if any(norm is not None and not isinstance(norm, nn.Identity) for norm in norms):
            raise RetrofitError("attention with normalised queries and keys cannot be quantised")
        if hasattr(module, "relative_position_bias_table"):
            raise RetrofitError("attention with relative positions cannot be quantised")
        return "fused"
    if isinstance(module, nn.MultiheadAttention):
        if not module.batch_first or module.in_proj_weight is None or module.bias_k is not None:
            raise RetrofitError(
                "torch's multi-head attention is quantised with batch_first=True, equal widths and no bias_k"
            )
        return "multihead"
    return None


def heads_of(module: nn.Module) -> int:
    """Heads of an attention module."""
    return module.heads if hasattr(module, "heads") else module.num_heads


def _refuse_dropout(module: nn.Module) -> None:
    rates = [m.p for m in module.modules() if isinstance(m, nn.Dropout)]
    rates.append(float(getattr(module, "dropout", 0.0) or 0.0))
    if any(rate > 0 for rate in rates):
        raise RetrofitError("attention with dropout cannot be quantised: set its rate to 0")


class QuantizedAttention(nn.Module, ABC):
    """Rounded input, values, probabilities, output projection; subclasses make the scores.

    `[b, tokens, width]` to the same, called in the way of the module that it replaces.
    """

    def __init__(self, module: nn.Module, plan: AttentionPlan):
        super().__init__()
        _refuse_dropout(module)
        self.plan = plan
        query, key, value, output = projections(module, plan.layout)
        self.scale = (plan.width // plan.heads) ** -0.5
        self.input_quantizer = input_quantizer(plan.input(-2, plan.tokens))
        self.v_proj = self.projection(value)
        self.value_quantizer = input_quantizer(plan.input(-1, plan.width))
        self.probability_quantizer = input_quantizer(
            plan.input(-2, plan.tokens, signed=False, features=0)
        )
        self.o_proj = self.projection(output, quantize_input=True)
        self.scores_from(query, key)
        self.train(module.training)

    def projection(self, layer: nn.Linear, quantize_input: bool = False) -> nn.Module:
        """One of the projections with its weight rounded."""
        plan = self.plan
        if plan.bits is None:
            return QuantizedLinear(layer, None)
        received = plan.input(-2, plan.tokens) if quantize_input else None
        return QuantizedLinear(layer, LayerPlan(plan.weights, plan.bits, received))

    @abstractmethod
    def scores_from(self, query: nn.Linear, key: nn.Linear) -> None:
        """Set up what makes the scores from the float projections."""

    @abstractmethod
    def scores(self, x: Tensor) -> Tensor:
        """`[b, heads, tokens, tokens]` from the rounded input, not scaled yet."""

    def forward(self, x: Tensor, *others: Any, **options: Any) -> Any:
        """See the class. Raises RetrofitError for masks and for attention to something else."""
        _only_self(x, others, options)
        heads = self.plan.heads
        x = self.input_quantizer(x)
        probabilities = self.probability_quantizer((self.scores(x) * self.scale).softmax(-1))
        values = self.value_quantizer(self.v_proj(x)).unflatten(-1, (heads, -1)).transpose(1, 2)
        out = self.o_proj((probabilities @ values).transpose(1, 2).flatten(2))
        return (out, None) if self.plan.layout == "multihead" else out


def _only_self(x: Tensor, others: tuple, options: dict[str, Any]) -> None:
    rest = [*others, *(v for k, v in options.items() if k not in ("need_weights", "is_causal"))]
    if options.get("is_causal") or any(other is not None and other is not x for other in rest):
        raise RetrofitError(
            "quantised attention is of all tokens over all tokens: no mask, no causal order, no other keys"
        )


class PlainAttention(QuantizedAttention):
    """Query and key rounded apart: six quantisers between the input and the probabilities."""

    def scores_from(self, query: nn.Linear, key: nn.Linear) -> None:
        """See the base class."""
        self.q_proj, self.k_proj = self.projection(query), self.projection(key)
        plan = self.plan.input(-2, self.plan.tokens)
        self.query_quantizer, self.key_quantizer = input_quantizer(plan), input_quantizer(plan)

    def scores(self, x: Tensor) -> Tensor:
        """See the base class."""
        q = self.query_quantizer(self.q_proj(x)).unflatten(-1, (self.plan.heads, -1))
        k = self.key_quantizer(self.k_proj(x)).unflatten(-1, (self.plan.heads, -1))
        return q.transpose(1, 2) @ k.permute(0, 2, 3, 1)


class ProductAttention(QuantizedAttention):
    """Query and key as one rounded matrix: four quantisers between the input and the probabilities.

    A weight of `heads * width * width` takes the place of `2 * width * width`. Once deployed, the layer
    holds that matrix (`product_layer`) and r (`query_rows`) and no longer the factors.
    """

    def scores_from(self, query: nn.Linear, key: nn.Linear) -> None:
        """See the base class."""
        plan = self.plan
        exact = plan.query_key == "exact" and query.bias is not None
        self.q_proj, self.k_proj = query if exact else _without_bias(query), _without_bias(key)
        self.product_layer = self.query_rows = None
        with torch.no_grad():
            self.product_quantizer = weight_quantizer(plan.weights, plan.bits, self.product())
        wide = {"split": plan.heads, "features": plan.heads * plan.width}
        self.projected_quantizer = input_quantizer(plan.input(-2, plan.tokens * plan.heads, **wide))
        if plan.weights == "integer":
            self.deploy()

    def product(self) -> Tensor:
        """M of all heads, float, `[heads * width, width]`."""
        return query_key_product(self.q_proj.weight, self.k_proj.weight, self.plan.heads)

    def bias_rows(self) -> Tensor | None:
        """r `[heads, width]`, or None without a query bias."""
        if self.product_layer is not None:
            return self.query_rows
        if self.q_proj.bias is None:
            return None
        return query_bias_rows(self.q_proj.bias, self.k_proj.weight, self.plan.heads)

    def rounded_product(self) -> Tensor:
        """M on its grid."""
        if self.product_layer is not None:
            return self.product_layer.weight
        return self.product_quantizer(self.product())

    def scores(self, x: Tensor) -> Tensor:
        """See the base class."""
        projected = nn.functional.linear(x, self.rounded_product())
        keys = self.projected_quantizer(projected).unflatten(-1, (self.plan.heads, -1))
        scores = x.unsqueeze(1) @ keys.permute(0, 2, 3, 1)
        rows = self.bias_rows()
        return scores if rows is None else scores + (x @ rows.T).transpose(1, 2).unsqueeze(2)

    def masters(self) -> dict[str, tuple[Tensor, WeightQuantizer]]:
        """The product, under the name that it has when deployed."""
        if not isinstance(self.product_quantizer, WeightQuantizer):
            return {}
        return {"product_layer": (self.product(), self.product_quantizer)}

    @torch.no_grad()
    def deploy(self) -> None:
        """Keep M on its grid and r, and drop what they were made of."""
        product, rows = self.rounded_product(), self.bias_rows()
        layer = nn.Linear(self.plan.width, len(product), bias=False, device="meta")
        layer.weight = nn.Parameter(product.clone())
        del self.q_proj, self.k_proj, self.product_quantizer
        self.product_layer, self.product_quantizer = layer, nn.Identity()
        self.query_rows = None if rows is None else nn.Parameter(rows.clone())
        self.plan = replace(self.plan, weights="integer")


def _without_bias(layer: nn.Linear) -> nn.Linear:
    layer.register_parameter("bias", None)
    return layer


def quantized_attention(module: nn.Module, plan: AttentionPlan) -> QuantizedAttention:
    """The module that a plan puts in the place of an attention module."""
    return (PlainAttention if plan.query_key == "plain" else ProductAttention)(module, plan)

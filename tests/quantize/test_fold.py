"""Folding a scale leaves the float function alone, for every kind of module before the layers."""

import pytest
import torch
from torch import nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from methods.quantize.fold import (
    expand_shared,
    fold_linear,
    fold_norm,
    fold_norm_plus_one,
    fold_shared_value,
    mean_over_sharing,
)

GENERATOR = torch.Generator().manual_seed(2)


def positive(n):
    return torch.rand(n, generator=GENERATOR) * 4 + 0.1


def layers(width, *sizes, bias=True):
    torch.manual_seed(5)
    return [nn.Linear(width, size, bias=bias) for size in sizes]


def same(before, after):
    for old, new in zip(before, after, strict=True):
        assert (new - old).norm() < 1e-5 * old.norm()


@pytest.mark.parametrize("kind", ["rms", "layer norm", "one plus"])
@torch.no_grad()
def test_norms(kind):
    x, scale = torch.randn(7, 24, generator=GENERATOR), positive(24)
    norm = {"rms": LlamaRMSNorm, "layer norm": nn.LayerNorm, "one plus": Gemma3RMSNorm}[kind](24)
    norm.weight.copy_(torch.randn(24, generator=GENERATOR))
    if kind == "layer norm":
        norm.bias.copy_(torch.randn(24, generator=GENERATOR))
    after = layers(24, 10, 6)
    before = [layer(norm(x)) for layer in after]
    (fold_norm_plus_one if kind == "one plus" else fold_norm)(norm, after, scale)
    same(before, [layer(norm(x)) for layer in after])


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_linear_through_relu(bias):
    x, scale = torch.randn(7, 24, generator=GENERATOR), positive(16)
    (first,), (second,) = layers(24, 16, bias=bias), layers(16, 9, bias=bias)
    before = second(torch.relu(first(x)))
    fold_linear(first, [second], scale)
    same([before], [second(torch.relu(first(x)))])


@torch.no_grad()
def test_fused_query_key_value_scales_its_last_rows():
    x, scale = torch.randn(7, 24, generator=GENERATOR), positive(8)
    (fused,), (output,) = layers(24, 20), layers(8, 9)
    rest, before = fused(x)[:, :12], output(fused(x)[:, 12:])
    fold_linear(fused, [output], scale)
    same([rest, before], [fused(x)[:, :12], output(fused(x)[:, 12:])])


@torch.no_grad()
def test_shared_value_heads():
    heads, queries, size = share = (2, 3, 4)
    value, output = layers(24, heads * size)[0], layers(heads * queries * size, 9)[0]
    x = torch.randn(5, 24, generator=GENERATOR)
    mixed = torch.randn(heads, queries, 5, 5, generator=GENERATOR).softmax(-1)

    def attend():
        v = value(x).view(5, heads, 1, size).permute(1, 2, 0, 3)
        return output((mixed @ v).permute(2, 0, 1, 3).reshape(5, -1))

    before = attend()
    fold_shared_value(value, output, positive(heads * size), share)
    same([before], [attend()])


def test_expansion_and_mean_are_inverse():
    share, scale = (2, 3, 4), positive(8)
    spread = expand_shared(scale, share)
    torch.testing.assert_close(mean_over_sharing(spread, share), scale)
    # Query heads on one value head are neighbours.
    assert torch.equal(spread[:4], spread[4:8])
    assert torch.equal(spread[12:16], scale[4:])

"""The vision transformer against its formulas, written out with loops."""

import math

import pytest
import torch
from torch import nn

from methods.models.networks.network import arguments, build
from methods.models.networks.params import VisionTransformerSizes
from methods.models.networks.vit import STD, Attention, Embedding, VisionTransformer, mixed
from methods.study.errors import RetrofitError

SIZES = {"channels": 3, "classes": 5, "image": 8, "patch": 4, "width": 12, "depth": 2, "heads": 3}


def test_attention_is_softmax_attention_head_by_head():
    torch.manual_seed(0)
    attention = Attention(12, 3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    q, k, v = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    parts = []
    for head in range(3):
        at = slice(4 * head, 4 * head + 4)
        scores = q[..., at] @ k[..., at].transpose(1, 2) / math.sqrt(4)
        parts.append(scores.softmax(-1) @ v[..., at])
    expected = attention.o_proj(torch.cat(parts, -1))
    torch.testing.assert_close(attention(x), expected)


def test_a_patch_is_embedded_by_itself_in_reading_order():
    torch.manual_seed(0)
    embedding = Embedding(3, 8, 4, 12, token=True)
    nn.init.normal_(embedding.position)
    nn.init.normal_(embedding.class_token)
    x = torch.randn(2, 3, 8, 8)
    tokens = embedding(x)
    assert tokens.shape == (2, 5, 12)
    weight, bias = embedding.patch.weight.flatten(1), embedding.patch.bias
    for number, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        pixels = x[:, :, row : row + 4, column : column + 4].flatten(1)
        expected = pixels @ weight.T + bias + embedding.position[0, 1 + number]
        torch.testing.assert_close(tokens[:, 1 + number], expected)
    torch.testing.assert_close(tokens[1, 0], embedding.class_token[0, 0] + embedding.position[0, 0])


def test_a_block_is_two_residual_branches_behind_norms():
    block = VisionTransformer(**SIZES).layers[0]
    x = torch.randn(2, 5, 12)

    def norm(t):
        return (t - t.mean(-1, keepdim=True)) / (
            t.var(-1, unbiased=False, keepdim=True) + 1e-6
        ).sqrt()

    y = x + block.attention(norm(x))
    up, down = block.mlp[0], block.mlp[2]
    inner = up(norm(y))
    gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(block(x), y + down(gelu))
    assert up.out_features == 48


@pytest.mark.parametrize(("pool", "tokens"), [("token", 5), ("mean", 4)])
def test_the_pool_decides_what_the_classifier_sees(pool, tokens):
    network = VisionTransformer(**SIZES, pool=pool)
    assert network.embedding.position.shape == (1, tokens, 12)
    assert ("embedding.class_token" in network.state_dict()) == (pool == "token")
    features = torch.randn(2, tokens, 12)
    seen = network.head.norm(features)
    seen = seen[:, 0] if pool == "token" else seen.mean(1)
    torch.testing.assert_close(network.head(features), network.head.classifier(seen))


def test_weights_start_as_a_cut_normal_and_biases_at_zero():
    network = build("vit", SIZES | {"width": 96, "depth": 1}, seed=0)
    weight = network.layers[0].mlp[0].weight
    assert float(weight.detach().abs().max()) <= 2 * STD
    # A normal cut at two deviations has 0.880 of the deviation.
    assert float(weight.detach().std()) == pytest.approx(0.880 * STD, rel=0.02)
    assert float(network.embedding.position.detach().std()) > 0.5 * STD
    assert not network.layers[0].mlp[0].bias.any()


def test_the_default_sizes_fit_small_images_and_the_number_of_parameters_is_the_formula():
    sizes = VisionTransformerSizes()
    built = arguments(sizes.model_dump(), (28, 28), 10)
    network = build("vit", built, seed=0)
    d, patches = sizes.width, (28 // sizes.patch) ** 2
    tokens = patches + (sizes.pool == "token")
    inner = int(d * sizes.ratio)
    block = 4 * (d * d + d) + 2 * d * inner + inner + d + 4 * d
    around = sizes.patch**2 * d + d + tokens * d + (sizes.pool == "token") * d + 2 * d + 10 * d + 10
    assert sum(p.numel() for p in network.parameters()) == sizes.depth * block + around


@pytest.mark.parametrize(
    ("sizes", "image", "message"),
    [
        ({"patch": 5}, (28, 28), "patch 5 does not divide an image of 28 pixels"),
        ({"width": 32, "heads": 3}, (28, 28), "heads 3 do not divide the width 32"),
        ({}, (28, 32), "square images, these are 28 x 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, image, message):
    chosen = VisionTransformerSizes(**sizes).model_dump()
    with pytest.raises(RetrofitError, match=message):
        build("vit", arguments(chosen, image, 10), seed=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_attention_in_bfloat16_is_computed_in_float32_and_keeps_the_dtype(autocast):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4).bfloat16() for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = mixed(q, k, v)
    scores = q.float() @ k.float().transpose(2, 3) / 2
    assert found.dtype == torch.bfloat16
    # Half a unit in the last of 8 bits: one rounding, at the end.
    torch.testing.assert_close(
        found.float(), scores.softmax(-1) @ v.float(), rtol=1.01 * 2**-8, atol=1e-6
    )

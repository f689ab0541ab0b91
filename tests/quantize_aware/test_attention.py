"""Query and key as one matrix: the algebra, and what the published form leaves out."""

import copy

import pytest
import torch
from torch import nn

from methods.quantize_aware.attention import (
    PlainAttention,
    ProductAttention,
    query_bias_rows,
    query_key_product,
)
from methods.quantize_aware.modules import InputQuantizer, WeightQuantizer, masters
from methods.quantize_aware.swap import quantize_module
from methods.study.errors import RetrofitError
from tests.quantize_aware.networks import (
    Fused,
    Multihead,
    images,
    tokens,
    vit,
    with_biases,
)


def close(found, wanted, tolerance=2e-6):
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


def without_query_and_key_biases(network):
    for name, parameter in network.named_parameters():
        if name.endswith(("q_proj.bias", "k_proj.bias")):
            parameter.data.zero_()
    return network


def test_the_product_gives_the_scores_of_query_and_key():
    generator = torch.Generator().manual_seed(0)
    wq, wk = torch.randn(2, 12, 12, generator=generator)
    bq, bk = torch.randn(2, 12, generator=generator)
    x = torch.randn(5, 12, generator=generator)
    product = query_key_product(wq, wk, 3).unflatten(0, (3, 12))
    rows = query_bias_rows(bq, wk, 3)
    q, k = ((x @ w.T + b).unflatten(-1, (3, 4)) for w, b in ((wq, bq), (wk, bk)))
    wanted = torch.einsum("nhe,mhe->hnm", q, k)
    found = torch.einsum("nc,hcd,md->hnm", x, product, x) + (x @ rows.T).T[:, None]
    # What is left are terms of the query alone, which the softmax over keys does not see.
    close(found.softmax(-1), wanted.softmax(-1), 1e-5)
    rest = wanted - found
    close(rest, rest[..., :1].expand_as(rest), 1e-4)


@pytest.mark.parametrize("query_key", ["plain", "exact"])
def test_a_swap_that_rounds_nothing_keeps_the_float_function(query_key):
    network = vit()
    wanted = network(images())
    close(
        quantize_module(copy.deepcopy(network), images(), 32, query_key=query_key)(images()), wanted
    )


def test_the_published_form_keeps_it_only_without_biases():
    network, x = vit(), images()
    published = quantize_module(copy.deepcopy(network), x, 32, query_key="published")
    assert (published(x) - network(x)).abs().max() > 1e-3
    network = without_query_and_key_biases(network)
    published = quantize_module(copy.deepcopy(network), x, 32, query_key="published")
    close(published(x), network(x))


def test_the_published_form_moves_attention_as_its_own_code_does():
    """At biases of deviation .2: scores and probabilities move by a visible amount."""
    generator = torch.Generator().manual_seed(5)
    module = vit().layers[0].attention
    for layer in (module.q_proj, module.k_proj):
        layer.bias.data = 0.2 * torch.randn(12, generator=generator)
    x = torch.randn(4, 17, 12, generator=generator)
    q, k = (p(x).unflatten(-1, (3, -1)).transpose(1, 2) for p in (module.q_proj, module.k_proj))
    right = (q @ k.transpose(-1, -2) / 2).softmax(-1)
    network = nn.Sequential(nn.Identity(), copy.deepcopy(module))
    published = quantize_module(network, x, 32, query_key="published")[1]
    moved = (published.scores(x) / 2).softmax(-1) - right
    assert float(moved.detach().abs().max()) > 0.01


@pytest.mark.parametrize(("make", "x"), [(Fused, tokens()), (Multihead, tokens())])
@pytest.mark.parametrize("query_key", ["plain", "exact"])
def test_attention_of_other_libraries_keeps_its_function(make, x, query_key):
    network = with_biases(make())
    wanted = network(x)
    swapped = quantize_module(copy.deepcopy(network), x, 32, query_key=query_key)
    close(swapped(x), wanted)
    rounded = quantize_module(network, x, 2, query_key=query_key)
    assert (rounded(x) - wanted).abs().max() > 1e-3


def test_parameters_and_quantisers_of_both_forms():
    x = images()
    network = vit()
    count = sum(p.numel() for p in network.parameters())
    plain = quantize_module(copy.deepcopy(network), x, 2)
    joint = quantize_module(copy.deepcopy(network), x, 2, query_key="published")
    exact = quantize_module(copy.deepcopy(network), x, 32, query_key="exact")
    assert count - sum(p.numel() for p in exact.parameters()) == 2 * 12  # the key's biases

    def between_input_and_probabilities(module):
        skipped = ("v_proj", "value", "o_proj")
        return sum(
            isinstance(part, InputQuantizer | WeightQuantizer) and not name.startswith(skipped)
            for name, part in module.named_modules()
        )

    assert isinstance(plain.layers[0].attention, PlainAttention)
    assert between_input_and_probabilities(plain.layers[0].attention) == 6
    assert isinstance(joint.layers[0].attention, ProductAttention)
    assert between_input_and_probabilities(joint.layers[0].attention) == 4
    assert masters(joint)["layers.0.attention.product_layer"][0].shape == (36, 12)
    assert joint.layers[0].attention.projected_quantizer.step.shape == (17 * 3,)


def test_gradients_reach_query_and_key_through_the_product():
    network = quantize_module(vit(), images(), 2, query_key="exact")
    network(images()).square().sum().backward()
    attention = network.layers[1].attention
    for parameter in (attention.q_proj.weight, attention.k_proj.weight, attention.q_proj.bias):
        assert float(parameter.grad.abs().max()) > 0


def test_the_scale_of_the_product_is_one_for_each_head_and_query_side_input():
    network = quantize_module(vit(), images(), 3, query_key="published", weights="statsq")
    rows, quantizer = masters(network)["layers.0.attention.product_layer"]
    attention = network.layers[0].attention
    head, d = 1, 5
    wq = attention.q_proj.weight[head * 4 : head * 4 + 4]
    wk = attention.k_proj.weight[head * 4 : head * 4 + 4]
    row = wq[:, d] @ wk
    close(rows[head * 12 + d], row)
    scale = quantizer.packed(rows).scale[head * 12 + d, 0] * 4
    close(scale, 2 * row.abs().mean().detach())


def test_what_cannot_be_swapped_is_refused():
    with pytest.raises(RetrofitError, match="normalised queries"):
        quantize_module(Fused(norm=True), tokens(), 2)
    with pytest.raises(RetrofitError, match="dropout"):
        quantize_module(Fused(dropout=0.1), tokens(), 2)
    encoder = nn.Sequential(nn.TransformerEncoderLayer(12, 3, batch_first=True))
    with pytest.raises(RetrofitError, match="encoder layer"):
        quantize_module(encoder, torch.randn(2, 7, 12), 2)
    network = quantize_module(Fused(), tokens(), 2)
    with pytest.raises(RetrofitError, match="no mask"):
        network.attention(torch.randn(2, 7, 12), torch.zeros(7, 7))
    with pytest.raises(RetrofitError, match="takes images of the size it was trained with"):
        network(torch.randn(2, 9, 5))

"""The cost counter against closed forms."""

import pytest
import torch
from torch import nn

from methods.measure.cost import bytes_of, count
from tests.models.tiny import COMMON, SPECIFIC, tiny_model, tiny_tokens


def test_linear():
    cost = count(nn.Linear(20, 30), torch.zeros(7, 20))
    assert cost.macs == 7 * 20 * 30
    assert cost.parameters == 20 * 30 + 30
    assert cost.bytes == 4 * cost.parameters


def test_linear_on_a_vector():
    assert count(nn.Linear(20, 30), torch.ones(20)).macs == 20 * 30


def test_zero_weights_do_not_count_as_effective():
    layer = nn.Linear(20, 30)
    layer.weight.data[:, :5] = 0
    cost = count(layer, torch.zeros(2, 20))
    assert cost.macs == 2 * 20 * 30
    assert cost.effective_macs == 2 * 15 * 30
    assert cost.nonzeros == 15 * 30 + 30


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution(groups):
    layer = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=groups, bias=False)
    layer.weight.data[0] = 0
    cost = count(layer, torch.zeros(1, 8, 16, 16))
    assert cost.macs == 8 * 8 * 12 * (8 // groups) * 9
    assert cost.effective_macs == 8 * 8 * 11 * (8 // groups) * 9


def test_attention_products():
    class Attention(nn.Module):
        def forward(self, q, k, v):
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    q, k, v = torch.zeros(2, 3, 10, 8), torch.zeros(2, 3, 10, 8), torch.zeros(2, 3, 10, 8)
    assert count(Attention(), q, k, v).macs == 2 * 3 * (10 * 10 * 8 + 10 * 10 * 8)


def test_shared_weights_count_once_but_work_twice():
    shared = nn.Linear(6, 6, bias=False)
    net = nn.Sequential(shared, shared)
    cost = count(net, torch.zeros(1, 6))
    assert (cost.parameters, cost.bytes, cost.macs) == (36, 144, 72)


def test_a_grouped_query_language_model():
    model = tiny_model("llama")
    d, layers, heads = (
        COMMON[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    )
    ffn, kv_heads = SPECIFIC["llama"]["intermediate_size"], SPECIFIC["llama"]["num_key_value_heads"]
    t, width = 12, d // heads
    projections = t * (2 * d * d + 2 * d * kv_heads * width)
    attention = heads * t * t * width * 2
    head = t * d * COMMON["vocab_size"]
    cost = count(model, input_ids=tiny_tokens(1, t))
    assert cost.macs == layers * (projections + attention + 3 * t * d * ffn) + head
    assert cost.bytes == 4 * cost.parameters  # the head is the embedding


def test_counting_changes_nothing():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    count(net, torch.ones(3, 4))
    assert not net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())
    assert bytes_of(net) == 4 * (16 + 4 + 4 * 4) + 8  # the batch counter is one int64

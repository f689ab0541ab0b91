"""Which layers become what, on any module, and what is refused."""

import copy

import pytest
import torch
from torch import nn

from methods.measure.cost import count
from methods.models.networks.network import build
from methods.quantize_aware.modules import (
    LearnedStepQuantizer,
    QuantizedConv2d,
    QuantizedLinear,
    StatsQuantizer,
    masters,
)
from methods.quantize_aware.payload import integer_weights
from methods.quantize_aware.plans import from_json, to_json
from methods.quantize_aware.swap import left_float, quantize_module, start, survey, swap
from methods.study.errors import RetrofitError
from tests.quantize_aware.networks import Fused, images, tokens, vit


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 4)
    )


def rows(n=64):
    return torch.randn(n, 16, generator=torch.Generator().manual_seed(0))


def test_first_and_last_layer_have_eight_bits_of_lsq():
    network = quantize_module(vit(), images(), 2)
    found = {name: quantizer for name, (_, quantizer) in masters(network).items()}
    assert next(iter(found)) == "embedding.patch"
    for edge in ("embedding.patch", "head.classifier"):
        assert isinstance(found[edge], LearnedStepQuantizer)
        assert found[edge].bits == 8
    inner = [q for name, q in found.items() if name not in ("embedding.patch", "head.classifier")]
    assert all(isinstance(q, StatsQuantizer) and q.bits == 2 for q in inner)
    assert len(inner) == 2 * 6


def test_inputs_are_measured_not_guessed():
    network = quantize_module(vit(), images(), 2)
    plan = network.layers[0].mlp[0].input_quantizer.plan
    assert (plan.signed, plan.axis, plan.size, plan.features) == (True, -2, 17, 12)
    plan = network.layers[0].mlp[2].input_quantizer.plan
    assert (plan.signed, plan.features) == (False, 48)  # behind a GELU
    assert network.embedding.patch.input_quantizer.plan.axis == 1
    assert network.head.classifier.input_quantizer.plan.size == 1
    plain = quantize_module(vit(), images(), 2, shifts=False)
    assert plain.layers[0].mlp[0].input_quantizer.before is None


def test_steps_start_from_one_batch_behind_the_quantisers_before():
    network = quantize_module(vit(), images(), 2)
    first = network.layers[0].attention.input_quantizer
    seen = []
    handle = first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(images())
    handle.remove()
    torch.testing.assert_close(first.step, 2 * seen[0].abs().mean((0, 2)))


def test_a_users_own_network_trains_and_gives_integer_codes():
    network = quantize_module(mlp(), rows(), bits=2)
    x, y = rows(), rows().argmax(1) % 4
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    codes, scale, offset = integer_weights(network)["2"]
    assert codes.dtype == torch.int8
    assert codes.unique().tolist() == [-2, -1, 0, 1]
    layer = network[2]
    weight = layer.weight_quantizer(layer.weight)
    assert torch.equal((codes + offset) * scale[:, None], weight)
    assert integer_weights(network)["0"][2] == 0.0


def test_convolutions_and_the_rest_of_a_residual_network():
    network = build("residual", {"channels": 3, "classes": 4, "width": 4, "blocks": 1}, 0).eval()
    x = torch.randn(8, 3, 16, 16)
    wanted = network(x)
    torch.testing.assert_close(quantize_module(copy.deepcopy(network), x, 32)(x), wanted)
    before = count(network, x[:1]).macs
    quantize_module(network, x, 4)
    assert isinstance(network.stages[0].conv1, QuantizedConv2d)
    assert network.stages[0].conv2.input_quantizer.plan.signed is False  # behind a ReLU
    assert network.stages[1].conv1.stride == (2, 2)
    assert left_float(network) == {"head": "PooledLinear"}
    assert count(network, x[:1]).macs == before
    network(x).sum().backward()
    codes = integer_weights(network)["stages.0.conv1"][0]
    assert codes.shape == (4, 36)


def test_a_plan_builds_the_same_network_again():
    network = vit()
    plans = survey(network, images(), 3, query_key="exact")
    assert from_json(to_json(plans)) == plans
    one = swap(copy.deepcopy(network), plans)
    start(one, images())
    two = swap(vit(seed=9), from_json(to_json(plans)))
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(images()), two(images()))


def test_the_state_keeps_the_float_names():
    network = vit()
    names = set(network.state_dict())
    assert names <= set(quantize_module(copy.deepcopy(network), images(), 2).state_dict())


def test_modes_and_parameters_are_left_as_they_were():
    network = mlp().train()
    weight = network[2].weight
    quantize_module(network, rows(), 2)
    assert network[2].weight is weight
    assert network[2].training
    assert isinstance(network[2], QuantizedLinear)


@pytest.mark.parametrize(
    ("network", "example", "options", "message"),
    [
        (
            mlp,
            rows(),
            {"query_key": "published"},
            "Sequential has no attention; use query_key: plain",
        ),
        (mlp, rows(), {"bits": 1}, "bits 1: allowed are 2 to 8, or 32 for none; one bit breaks"),
        (mlp, rows(), {"bits": 9}, "bits 9: allowed are 2 to 8"),
        (mlp, rows(), {"weights": "stats"}, "weights 'stats': allowed are statsq, lsq"),
        (lambda: nn.Sequential(nn.ReLU()), rows(), {}, "no linear layer"),
        (lambda: nn.Linear(16, 3), rows(), {}, "wrap it in nn.Sequential"),
        (lambda: quantize_module(Fused(), tokens(), 2), tokens(), {}, "quantised already"),
    ],
)
def test_refused_with_a_reason(network, example, options, message):
    with pytest.raises(RetrofitError, match=message):
        quantize_module(network(), example, **{"bits": 2, **options})


def test_a_layer_that_is_called_twice_is_refused():
    layer = nn.Linear(16, 16)
    with pytest.raises(RetrofitError, match="more than once"):
        quantize_module(nn.Sequential(layer, nn.ReLU(), layer), rows(), 2)


def test_statsq_refuses_pruned_weights_and_lsq_keeps_their_zeros():
    network = mlp()
    with torch.no_grad():
        network[2].weight[:, ::2] = 0
    with pytest.raises(RetrofitError, match="50% of the weights of 2 are zero"):
        quantize_module(copy.deepcopy(network), rows(), 2)
    quantize_module(network, rows(), 2, weights="lsq")
    weight = network[2].weight_quantizer(network[2].weight)
    assert not weight[:, ::2].any()

"""Ghost batch normalisation against BatchNorm, its definition, and the published code's numbers."""

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from methods.large_batch.ghost_batch_norm import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    ghost_batch_norm,
    ghost_split,
    replace_batch_norm,
    running_weights,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "large_batch" / "gbn_core.npz")


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loop_over_ghosts(layer, x, sizes):
    """The definition: BatchNorm called once per ghost, updating its statistics each time."""
    return torch.cat([layer(part) for part in x.split(sizes)])


@pytest.mark.parametrize("ghost", [4, 8, 24])
def test_layer_agrees_with_the_published_numbers(ghost):
    for rule, key in [("sequential", "seq"), ("composer", "composer"), ("averaged", "avg")]:
        layer = GhostBatchNorm1d(6, ghost, running=rule)
        layer.load_state_dict(
            {
                "weight": golden("l_w"),
                "bias": golden("l_b"),
                "running_mean": golden("l_rm0"),
                "running_var": golden("l_rv0"),
                "num_batches_tracked": torch.tensor(0),
            }
        )
        y = layer(golden("l_x"))
        torch.testing.assert_close(y, golden(f"l_y_g{ghost}"), atol=1e-5, rtol=1e-5)
        for buffer, name in [(layer.running_mean, "rm"), (layer.running_var, "rv")]:
            torch.testing.assert_close(
                buffer, golden(f"l_{name}_{key}_g{ghost}"), atol=1e-6, rtol=1e-6
            )
        if ghost == 8 and rule == "sequential":
            evaluated = layer.eval()(golden("l_x"))
            torch.testing.assert_close(evaluated, golden("l_eval_g8"), atol=1e-5, rtol=1e-5)


def test_two_dimensional_chunks_agree_with_the_published_numbers():
    layer = GhostBatchNorm2d(3, 4, remainder="chunk", chunks=4)
    y = layer(golden("c_x"))
    assert (
        ghost_split(10, 4, "chunk", 4, values_per_sample=16).sizes() == GOLDEN["c_sizes"].tolist()
    )
    torch.testing.assert_close(y, golden("c_y_chunk4"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.running_mean, golden("c_rm"), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(layer.running_var, golden("c_rv"), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("rule", ["sequential", "composer", "averaged"])
@pytest.mark.parametrize("ghost", [12, 50])
@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3), (12, 5, 3, 4)])
def test_one_ghost_is_batch_norm_to_the_bit(rule, ghost, shape):
    plain = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(5)
    layer = (GhostBatchNorm2d if len(shape) == 4 else GhostBatchNorm1d)(5, ghost, running=rule)
    upstream = random(*shape, seed=1)
    results = []
    for module in (plain, layer):
        x = random(*shape).requires_grad_()
        y = module(x)
        y.backward(upstream)
        results.append([y, x.grad, module.weight.grad, module.bias.grad, *module.buffers()])
    for expected, found in zip(*results, strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("samples", [12, 14, 13, 3])
@pytest.mark.parametrize(
    ("trailing", "channels_last"), [((), False), ((3,), False), ((3, 2), False), ((3, 2), True)]
)
def test_outputs_gradients_and_statistics_are_those_of_the_loop(samples, trailing, channels_last):
    images = len(trailing) == 2
    plain = (nn.BatchNorm2d if images else nn.BatchNorm1d)(5, momentum=0.3)
    layer = (GhostBatchNorm2d if images else GhostBatchNorm1d)(5, 4, momentum=0.3)
    with torch.no_grad():
        plain.weight.copy_(random(5, seed=2))
        plain.bias.copy_(random(5, seed=3))
    layer.load_state_dict(plain.state_dict())
    x = random(samples, 5, *trailing)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    upstream = random(samples, 5, *trailing, seed=1)
    values = int(np.prod(trailing)) if trailing else 1
    sizes = ghost_split(samples, 4, values_per_sample=values).sizes()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(ours)
    expected = loop_over_ghosts(plain, theirs, sizes)
    y.backward(upstream)
    expected.backward(upstream)
    assert y.shape == x.shape
    assert y.stride() == x.stride()
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(layer.bias.grad, plain.bias.grad, atol=1e-5, rtol=1e-4)
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), buffer, atol=1e-6, rtol=1e-5)


def test_each_ghost_has_zero_mean_and_unit_variance():
    y = GhostBatchNorm1d(6, 8, affine=False)(3 + 5 * random(32, 6)).unflatten(0, (4, 8))
    torch.testing.assert_close(y.mean(1), torch.zeros(4, 6), atol=1e-6, rtol=0)
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(4, 6), atol=1e-4, rtol=0)


def test_order_within_a_ghost_is_immaterial_and_across_ghosts_is_not():
    layer, x = GhostBatchNorm1d(6, 8), random(16, 6)
    y = layer(x)
    within = torch.cat([torch.arange(8).flip(0), torch.arange(8, 16).roll(3)])
    torch.testing.assert_close(layer(x[within]), y[within], atol=1e-6, rtol=1e-6)
    across = torch.arange(16)
    across[[0, 8]] = across[[8, 0]]
    assert (layer(x[across]) - y[across]).abs().max() > 1e-2


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("rule", ["sequential", "composer", "averaged"])
def test_running_weights_sum_to_one_and_are_the_repeated_update(rule, momentum):
    kept, weights = running_weights(5, momentum, rule, tracked=7)
    assert kept + sum(weights) == pytest.approx(1)
    if rule == "sequential":
        value, statistics = 2.0, [1.0, -3.0, 4.0, 0.5, 9.0]
        for count, statistic in enumerate(statistics, start=8):
            step = 1 / count if momentum is None else momentum
            value = (1 - step) * value + step * statistic
        assert kept * 2.0 + np.dot(weights, statistics) == pytest.approx(value)


def test_sequential_memory_shrinks_with_the_number_of_ghosts():
    assert running_weights(32, 0.1, "sequential")[0] == pytest.approx(0.9**32)
    assert running_weights(32, 0.1, "composer")[0] > 0.9
    assert running_weights(32, 0.1, "averaged")[0] == pytest.approx(0.9)


def test_cumulative_average_is_the_mean_over_all_ghosts():
    layer, x = GhostBatchNorm1d(3, 4, momentum=None), random(24, 3)
    layer(x[:16])
    layer(x[16:])
    torch.testing.assert_close(layer.running_mean, x.mean(0), atol=1e-6, rtol=1e-5)
    assert layer.num_batches_tracked == 6


def test_the_printed_rule_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"sequential, composer, averaged.*printed rule"):
        GhostBatchNorm1d(3, 4, running="paper_literal")


@pytest.mark.parametrize(
    ("samples", "policy", "values", "sizes"),
    [
        (32, "keep", 1, [8, 8, 8, 8]),
        (20, "keep", 1, [8, 8, 4]),
        (17, "keep", 1, [8, 9]),  # a lone sample has no variance, so it joins the last ghost
        (17, "keep", 16, [8, 8, 1]),  # with pixels it has one
        (9, "keep", 1, [9]),
        (5, "keep", 1, [5]),
        (20, "merge", 1, [8, 12]),
        (20, "chunk", 1, [5, 5, 5, 5]),
        (10, "chunk", 1, [3, 3, 4]),
        (2656, "chunk", 1, [83] * 32),
    ],
)
def test_uneven_batches(samples, policy, values, sizes):
    chunks = 32 if samples == 2656 else 4
    assert ghost_split(samples, 8, policy, chunks, values).sizes() == sizes


def test_uneven_batch_is_refused_on_request():
    with pytest.raises(ValueError, match="20 does not divide into ghosts of 8"):
        GhostBatchNorm1d(3, 8, remainder="error")(random(20, 3))


def test_a_remainder_of_one_trains_and_a_batch_of_one_is_refused():
    layer = GhostBatchNorm1d(3, 8)
    assert torch.isfinite(layer(random(17, 3))).all()
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        layer(random(1, 3))
    with pytest.raises(ValueError, match="at least one sample"):
        layer(random(0, 3))
    with pytest.raises(ValueError, match="one value per channel"):
        GhostBatchNorm1d(3, 1)(random(4, 3))
    assert torch.isfinite(GhostBatchNorm2d(3, 1)(random(4, 3, 2, 2))).all()


def test_evaluation_is_batch_norm_with_the_same_buffers_and_state_dicts_go_both_ways():
    plain, layer = nn.BatchNorm2d(4), GhostBatchNorm2d(4, 2)
    layer(random(9, 4, 3, 3))
    plain.load_state_dict(layer.state_dict())
    x = random(6, 4, 3, 3, seed=5)
    assert torch.equal(plain.eval()(x), layer.eval()(x))
    layer.load_state_dict(nn.BatchNorm2d(4).state_dict())
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize("shape", [(16, 6), (16, 6, 4, 4)])
def test_statistics_stay_float32_under_autocast(shape):
    kind = GhostBatchNorm2d if len(shape) == 4 else GhostBatchNorm1d
    exact, half = kind(6, 4), kind(6, 4)
    x = (100 + random(*shape)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = half(x)
    reference = exact(x.float())
    assert y.dtype == torch.bfloat16
    for buffer in (half.running_mean, half.running_var):
        assert buffer.dtype == torch.float32
    torch.testing.assert_close(half.running_mean, exact.running_mean, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(half.running_var, exact.running_var, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(y.float(), reference, atol=2e-2, rtol=2e-2)


def test_gradients_pass_the_numerical_check():
    x = random(7, 3).double().requires_grad_()
    weight, bias = random(3, seed=1).double(), random(3, seed=2).double()
    split = ghost_split(7, 3, "keep", values_per_sample=2)
    pair = torch.stack([x, x.detach().flip(0)], 2)
    assert pair.shape == (7, 3, 2)
    assert torch.autograd.gradcheck(
        lambda inputs, w, b: ghost_batch_norm(
            torch.stack([inputs, inputs.sin()], 2), split, w, b, 1e-5
        )[0],
        (x, weight.requires_grad_(), bias.requires_grad_()),
    )


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5),
        nn.Sequential(nn.BatchNorm1d(5, momentum=0.2), nn.ReLU()),
    )  # fmt: skip


def test_replacing_keeps_tensors_and_mode_and_is_idempotent():
    with torch.random.fork_rng():
        net = network().eval()
    before = dict(net.named_parameters()) | dict(net.named_buffers())
    assert replace_batch_norm(net, 4) is net
    after = dict(net.named_parameters()) | dict(net.named_buffers())
    assert before.keys() == after.keys()
    assert all(after[name] is tensor for name, tensor in before.items())
    assert isinstance(net[1], GhostBatchNorm2d)
    assert isinstance(net[5][0], GhostBatchNorm1d)
    assert net[5][0].momentum == 0.2
    assert not net[1].training
    once = copy.deepcopy(net)
    replace_batch_norm(net, 4)
    assert repr(once) == repr(net)
    assert isinstance(replace_batch_norm(nn.BatchNorm1d(3), 2), GhostBatchNorm1d)
    with pytest.raises(TypeError, match="BatchNorm3d"):
        replace_batch_norm(nn.BatchNorm3d(3), 2)


@pytest.mark.parametrize("reset", [True, False])
def test_one_full_batch_step_is_the_published_accumulation(reset):
    """Two epochs of the released loop (ghost forward/backward, averaged, clipped, SGD)."""
    layers = [nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU()]
    layers += [nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5)]
    net = nn.Module()
    net.l = nn.Sequential(*layers)
    state = {k.removeprefix("init_"): golden(k) for k in GOLDEN if k.startswith("init_")}
    net.load_state_dict(state)
    replace_batch_norm(net, 8, remainder="chunk", chunks=4)
    x, y, bounds = golden("step_X"), golden("step_Y"), GOLDEN["step_bounds"]
    optimizer = None
    for epoch, rate in enumerate(GOLDEN["step_lr"]):
        if reset or optimizer is None:
            optimizer = torch.optim.SGD(net.parameters(), lr=1, momentum=0.9, weight_decay=1e-4)
        optimizer.param_groups[0]["lr"] = float(rate)
        for start, stop in itertools.pairwise(bounds):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net.l(x[start:stop]), y[start:stop]).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
        prefix = f"ep{epoch}_" if reset or epoch == 0 else f"noreset_ep{epoch}_"
        for name, tensor in net.state_dict().items():
            expected = golden(prefix + name)
            torch.testing.assert_close(tensor, expected, atol=2e-6, rtol=1e-5, msg=name)
    if reset:
        other = golden("noreset_ep1_l.0.weight")
        assert (net.l[0].weight - other).abs().max() > 1e-3

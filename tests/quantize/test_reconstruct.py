"""Learning one unit: its ranges, its losses, what it is fed with, and when the start is put back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from methods.quantize import rounding
from methods.quantize.grid import (
    Grid,
    grouped,
    least_error_range,
    pack,
    scale_and_zero,
    weight_range,
)
from methods.quantize.learned_params import LearnedRounding
from methods.quantize.reconstruct import (
    Features,
    SignSGD,
    augmentation,
    drawn,
    optimizer_of,
    reconstruct,
)
from methods.quantize.rounding_loss import LOSSES
from methods.quantize.rounding_variables import VARIABLES, initial_range
from methods.study.errors import RetrofitError

ADAROUND = Path(__file__).parents[1] / "golden" / "llm" / "adaround.npz"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def settings(**changes) -> LearnedRounding:
    given = {"bits": 3, "group_size": -1, "scale_dtype": "float32", "compute_dtype": "float32"}
    given |= {"optimizer": "adam", "learn_range": False, "iterations": 60, "batch": 16}
    return LearnedRounding(**(given | changes))


def layer(params, rows=12, columns=40, samples=64):
    """A linear layer's variable and its features."""
    weight = torch.randn(rows, columns, generator=seeded(1)) * 0.1
    mixing = torch.randn(columns, columns, generator=seeded(2)) / columns**0.5
    x = torch.randn(samples, columns, generator=seeded(3)) @ mixing
    grid = Grid.of(params)
    groups = grouped(weight, params.group_size)
    kind = VARIABLES[params.parametrisation]
    variable = kind(groups.clone(), *initial_range(groups, grid), grid, params)

    def run(inputs, weights):
        return inputs @ (weight if weights is None else weights["weight"]).T

    return variable, run, Features(x, x, run(x, None))


def learn(params):
    variable, run, features = layer(params)
    found = reconstruct(run, {"weight": variable}, features, params, seeded(), torch.float32)
    return variable, found


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_the_first_ranges_are_those_of_brecqs_code(bits):
    with np.load(ADAROUND) as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files}
    grid = Grid(bits)
    groups = grouped(golden["W"], -1)
    span = weight_range(groups)
    for kind, (low, high) in {
        "max": span,
        "mse": least_error_range(groups, *span, grid),
    }.items():
        scale, zero = scale_and_zero(low, high, grid)
        name = f"uaq_{kind}_b{bits}"
        torch.testing.assert_close(scale, golden[f"{name}_delta"], atol=1e-7, rtol=1e-6)
        assert torch.equal(zero.float(), golden[f"{name}_zp"].float())
        found = pack(golden["W"], scale, zero, grid).dequantize()
        torch.testing.assert_close(found, golden[f"{name}_dq"], atol=1e-6, rtol=1e-5)


def test_a_strong_regulariser_leaves_no_rounding_undecided():
    params = settings(
        parametrisation="adaround",
        learning_rate=0.1,
        decay="constant",
        iterations=400,
        regularisation=100.0,
    )
    variable, run, features = layer(params)
    reconstruct(run, {"weight": variable}, features, params, seeded(), torch.float32)
    h = rounding.rectified_sigmoid(variable.v.detach())
    assert torch.minimum(h, 1 - h).max() < 1e-3
    torch.testing.assert_close(variable.weight(), variable.weight(soft=False), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        ("adaround", 0.05),
        ("autoround", 0.01),
        ("plus_minus_one", 0.01),
        ("full_range", 0.01),
        ("flexround", 0.003),
    ],
)
def test_learning_lowers_the_loss_that_rounding_to_nearest_has(kind, rate):
    variable, found = learn(settings(parametrisation=kind, learning_rate=rate, iterations=200))
    assert found.kept
    assert found.last < 0.9 * found.first
    assert variable.packed().codes.max() <= 7


def test_where_learning_does_harm_the_start_is_put_back():
    params = settings(parametrisation="full_range", optimizer="sgd", learning_rate=1e4)
    variable, found = learn(params)
    untouched, *_ = layer(params)
    assert not found.kept
    assert variable.packed().same_as(untouched.packed())


def test_a_loss_that_is_not_finite_is_refused_before_any_update():
    params = settings(parametrisation="autoround")
    variable, run, features = layer(params)
    features.wanted[0, 0] = torch.inf
    with pytest.raises(RetrofitError, match="not finite"):
        reconstruct(run, {"weight": variable}, features, params, seeded(), torch.float32)


def test_mixed_inputs_are_elementwise_either_with_the_given_chance():
    rows = torch.arange(64)
    features = Features(torch.zeros(64, 200), torch.ones(64, 200), torch.zeros(64, 3))
    for chance in (0.1, 0.5, 0.9):
        params = settings(inputs="mixed", drop_probability=chance)
        x, _ = drawn(None, features, rows, params, seeded())
        assert set(x.unique().tolist()) == {0.0, 1.0}
        assert float(x.mean()) == pytest.approx(chance, abs=0.02)
    # Towards chance 1 QDrop is BRECQ's input, towards 0 the float network's.
    for chance, kind in ((1 - 1e-9, "quantised"), (1e-9, "fp")):
        mixed = settings(inputs="mixed", drop_probability=chance)
        x, _ = drawn(None, features, rows, mixed, seeded())
        wanted, _ = drawn(None, features, rows, settings(inputs=kind), seeded())
        assert torch.equal(x, wanted)


def test_losses_are_what_their_names_say():
    found = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    wanted = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    value = {name: float(loss(found, wanted, None)) for name, loss in LOSSES.items()}
    assert value["l2"] == pytest.approx((4 + 9) / 2)
    assert value["l1"] == pytest.approx((2 + 3) / 2)
    assert value["normalised_l2"] == pytest.approx((4 / 1 + 9 / 25) / 2)
    assert value["cosine"] == pytest.approx(1 - (1 / 5**0.5 + 4 / 5) / 2)
    assert value["fisher"] == value["l2"]
    bound = float(wanted.std())
    huber = 0.5 * (bound * (2 - bound / 2) + bound * (3 - bound / 2))
    assert bound < 2
    assert value["huber"] == pytest.approx(huber)
    weighted = LOSSES["fisher"](found, wanted, torch.tensor([2.0, 0.0]))
    assert float(weighted) == pytest.approx(2 * 9 / 2)
    for loss in LOSSES.values():
        assert float(loss(wanted, wanted, None)) == pytest.approx(0, abs=1e-6)


def test_augmented_features_get_their_target_anew():
    x = torch.randn(16, 8, 4, generator=seeded())
    features = Features(x, x, torch.zeros(16, 8, 4))
    params = settings(augmentation="gaussian", augmentation_strength=0.1)
    fed, wanted = drawn(lambda t, _: 3 * t, features, torch.arange(16), params, seeded())
    assert torch.equal(wanted, 3 * fed)
    assert float((fed - x).std() / x.std()) == pytest.approx(0.1, rel=0.1)


def test_mixup_is_convex_and_token_drop_takes_whole_positions():
    x = torch.randn(16, 50, 4, generator=seeded())
    mixed = augmentation(x, "mixup", 0.25, seeded(5))(x)
    other = torch.randperm(16, generator=seeded(5))
    torch.testing.assert_close(mixed, 0.75 * x + 0.25 * x[other])
    dropped = augmentation(x, "token_drop", 0.3, seeded(5))(x)
    gone = (dropped == 0).all(-1)
    assert torch.equal(dropped[~gone], x[~gone])
    assert float(gone.float().mean()) == pytest.approx(0.3, abs=0.05)
    picture = torch.randn(8, 3, 10, 10, generator=seeded())
    gone = augmentation(picture, "token_drop", 0.3, seeded(5))(picture) == 0
    assert (gone.all(1) == gone.any(1)).all()


def test_signsgd_takes_steps_of_one_size():
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    p.grad = torch.tensor([1e-9, -1e9, 0.0])
    SignSGD([p], lr=0.5).step()
    torch.testing.assert_close(p.detach(), torch.tensor([0.5, 2.5, 3.0]))


def test_rates_of_roundings_and_ranges_and_their_decay():
    params = settings(parametrisation="autoround", optimizer="signsgd", learn_range=True)
    assert params.rate == pytest.approx(1 / params.iterations)
    variable, *_ = layer(params)
    groups = optimizer_of({"weight": variable}, params).param_groups
    assert [len(g["params"]) for g in groups] == [1, 2]
    slow = params.model_copy(update={"range_learning_rate": 1e-4})
    groups = optimizer_of({"weight": variable}, slow).param_groups
    assert [g["lr"] for g in groups] == [params.rate, 1e-4]
    for kind, middle in (("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)):
        assert rounding.decay(0, 10, kind) == 1
        assert rounding.decay(5, 10, kind) == pytest.approx(middle)

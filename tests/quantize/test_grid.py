"""The integer grid against AWQ's published code, and what it must hold for any weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from methods.quantize.grid import (
    Grid,
    grouped,
    pack,
    pseudo_quantize,
    round_to_nearest,
    scale_and_zero,
    weight_range,
)

GOLDEN = {
    key: torch.from_numpy(value)
    for key, value in np.load(
        Path(__file__).parents[1] / "golden" / "llm" / "awq_pseudo_quant.npz"
    ).items()
}
ONE_SIGN_ROW = 6


def random_weight(rows=12, columns=64, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("group_size", [64, 128, -1])
def test_published_code_exactly(bits, group_size):
    weight, case = GOLDEN["W"], f"b{bits}_g{group_size}"
    grid = Grid(bits, group_size, in_range=False)
    scale, zero = scale_and_zero(*weight_range(grouped(weight, group_size)), grid)
    assert torch.equal(pseudo_quantize(weight, grid), GOLDEN[f"{case}_dq"])
    assert torch.equal(scale, GOLDEN[f"{case}_scale"])
    assert torch.equal(zero, GOLDEN[f"{case}_zero"])


@pytest.mark.parametrize("group_size", [64, -1])
def test_zero_in_range_differs_only_for_groups_of_one_sign(group_size):
    weight = GOLDEN["W"]
    ours = pseudo_quantize(weight, Grid(4, group_size))
    published = GOLDEN[f"b4_g{group_size}_dq"]
    mixed = [row for row in range(len(weight)) if row != ONE_SIGN_ROW]
    assert torch.equal(ours[mixed], published[mixed])
    row = weight[ONE_SIGN_ROW]
    assert row.min() > 0
    assert (published[ONE_SIGN_ROW] - row).abs().max() > 0.4
    assert (ours[ONE_SIGN_ROW] - row).abs().max() <= row.max() / 15 / 2 + 1e-6


def test_negative_groups_are_kept_too():
    weight = -0.5 - 0.4 * torch.rand(3, 32, generator=torch.Generator().manual_seed(1))
    assert (pseudo_quantize(weight, Grid(4, 16)) - weight).abs().max() < 0.9 / 15 / 2 + 1e-6


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_group_of_zeros_stays_zero(symmetric, scale_dtype):
    weight = random_weight()
    weight[2] = 0
    weight[3, :16] = 0
    rounded = pseudo_quantize(weight, Grid(3, 16, symmetric, scale_dtype=scale_dtype))
    assert torch.isfinite(rounded).all()
    assert (rounded[2] == 0).all()
    assert (rounded[3, :16] == 0).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounding_again_on_the_stored_grid_changes_nothing(bits, symmetric):
    grid = Grid(bits, 16, symmetric, scale_dtype=torch.float16)
    packed = round_to_nearest(random_weight(), grid)
    again = pack(packed.dequantize(), packed.scale, packed.zero.float(), grid)
    assert again.same_as(packed)


def test_a_new_range_need_not_reproduce_the_codes():
    # Why the stored grid is used: rounded weights can span one point less than the grid.
    weight = torch.tensor([[-6.5, 8.5, 1.0, 3.0]])
    packed = round_to_nearest(weight, Grid(4))
    assert float(packed.scale) == 1
    once = packed.dequantize()
    assert not torch.equal(pseudo_quantize(once, Grid(4)), once)
    assert pack(once, packed.scale, packed.zero.float(), Grid(4)).same_as(packed)


def test_packed_form_is_what_pseudo_quantize_says():
    weight = random_weight()
    for grid in (Grid(3, 16), Grid(4, -1, symmetric=True), Grid(8, 32, scale_dtype=torch.float16)):
        assert torch.equal(
            round_to_nearest(weight, grid).dequantize(), pseudo_quantize(weight, grid)
        )


def test_scales_are_rounded_to_their_storage_type_before_the_codes():
    grid = Grid(4, 16, scale_dtype=torch.float16)
    weight = random_weight(64, 64)
    packed = round_to_nearest(weight, grid)
    assert torch.equal(packed.scale, packed.scale.half().float())
    # Every weight is at the nearest point of the grid as stored.
    step = packed.scale.repeat_interleave(16, 1)
    inside = (packed.codes > 0) & (packed.codes < grid.top)
    assert ((packed.dequantize() - weight).abs() <= step / 2 + 1e-6)[inside].all()


def test_tiny_weights_survive_half_precision_scales():
    weight = random_weight() * 1e-4
    rounded = round_to_nearest(weight, Grid(8, 16, scale_dtype=torch.float16)).dequantize()
    assert (rounded - weight).norm() < 0.02 * weight.norm()


def test_mse_range_never_has_more_error_than_minmax():
    weight = random_weight(32, 128)
    weight[:, ::16] *= 4
    grid = Grid(3, 32)
    error = {
        span: (round_to_nearest(weight, grid, span).dequantize() - weight).abs().pow(2.4).sum()
        for span in ("minmax", "mse")
    }
    assert error["mse"] < 0.95 * error["minmax"]


def test_weight_is_not_changed():
    weight = random_weight()
    kept = weight.clone()
    pseudo_quantize(weight, Grid(3, 16))
    round_to_nearest(weight, Grid(3, 16), "mse")
    assert torch.equal(weight, kept)

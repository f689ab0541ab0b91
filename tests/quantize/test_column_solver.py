"""GPTQ's solver against the published code's results, and the identities it must satisfy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from methods.quantize.column_solver import factorize, solve
from methods.quantize.grid import Grid, round_to_nearest
from methods.study.errors import RetrofitError

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "llm" / "gptq.npz"))
WEIGHT, HESSIAN = torch.from_numpy(GOLDEN["W"]), torch.from_numpy(GOLDEN["H"])
CASES = {
    "b4_perchan": (Grid(4), {}, {}),
    "b4_sym": (Grid(4, symmetric=True), {}, {}),
    "b3_g32": (Grid(3, 32), {}, {"published_ranges": True}),
    "b4_actorder": (Grid(4), {"act_order": True}, {}),
    "b4_g32_static_act": (Grid(4, 32), {"act_order": True}, {"static_groups": True}),
    "b4_block16": (Grid(4), {}, {"block_columns": 16}),
    "b4_mse": (Grid(4), {}, {"span": "mse", "published_ranges": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_published_code(case):
    grid, preparation, options = CASES[case]
    factor = factorize(HESSIAN, **preparation)
    solved = solve(WEIGHT, factor, grid, **options)
    torch.testing.assert_close(
        solved.packed.dequantize(), torch.from_numpy(GOLDEN[f"{case}_Q"]), rtol=1e-4, atol=1e-5
    )
    assert solved.loss == pytest.approx(float(GOLDEN[f"{case}_loss"]), rel=1e-4)
    last = 0 if grid.group_size == -1 else int(factor.order[-1]) // grid.group_size
    torch.testing.assert_close(
        solved.packed.scale[:, [last]], torch.from_numpy(GOLDEN[f"{case}_scale_last"])
    )


def random_problem(rows=20, columns=64, samples=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / 8
    x = torch.randn(samples, columns, generator=generator) @ mix
    return torch.randn(rows, columns, generator=generator), x.T @ x * (2 / samples)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group_size", [-1, 16])
def test_loss_is_half_the_trace_of_the_damped_hessian(act_order, group_size):
    weight, hessian = random_problem()
    factor = factorize(hessian, 0.05, act_order)
    grid = Grid(3, group_size)
    solved = solve(weight, factor, grid, static_groups=True)
    delta = (solved.packed.dequantize() - weight).double()
    damped = hessian.double() + factor.damping * torch.eye(64)
    trace = torch.trace(delta @ damped @ delta.T) / 2
    assert solved.loss == pytest.approx(float(trace), rel=1e-4)
    parts = solved.split([5, 15])
    assert sum(part.loss for part in parts) == pytest.approx(solved.loss, rel=1e-6)
    assert torch.equal(parts[1].packed.dequantize(), solved.packed.dequantize()[5:])


@pytest.mark.parametrize("group_size", [-1, 16, 32])
@pytest.mark.parametrize("static", [False, True])
def test_block_size_does_not_matter(group_size, static):
    weight, hessian = random_problem()
    factor, grid = factorize(hessian), Grid(3, group_size)
    whole = solve(weight, factor, grid, 128, static).packed.dequantize()
    for block_columns in (16, 24, 7):
        other = solve(weight, factor, grid, block_columns, static).packed.dequantize()
        # A weight may sit on a rounding tie up to summation order.
        assert ((other - whole).abs() > 1e-4).float().mean() < 0.01


def test_beats_rounding_at_the_layers_output():
    weight, hessian = random_problem()
    for grid in (Grid(3, 16), Grid(4)):
        ours = solve(weight, factorize(hessian, act_order=True), grid, static_groups=True)
        plain = round_to_nearest(weight, grid)
        error = [
            torch.trace(d @ hessian @ d.T)
            for d in (p.dequantize() - weight for p in (ours.packed, plain))
        ]
        assert error[0] < 0.6 * error[1]


def test_output_range_weighs_errors_by_the_inputs():
    weight, _ = random_problem()
    weight[:, ::16] *= 3
    hessian = torch.diag(torch.linspace(0.1, 3, 64))
    factor = factorize(hessian)
    losses = [
        solve(weight, factor, Grid(2, 16), static_groups=True, span=span, hessian=hessian).loss
        for span in ("minmax", "mse", "output")
    ]
    assert losses[2] < losses[1] < losses[0]


def test_uncorrelated_inputs_leave_nothing_to_make_up_for():
    weight, _ = random_problem()
    solved = solve(weight, factorize(torch.eye(64)), Grid(4, 16), static_groups=True)
    assert torch.equal(
        solved.packed.dequantize(), round_to_nearest(weight, Grid(4, 16)).dequantize()
    )


def test_dead_columns_become_zero_and_do_not_widen_the_grid():
    weight, hessian = random_problem()
    weight[:, 5] = 100
    hessian[5] = hessian[:, 5] = 0
    solved = solve(weight, factorize(hessian), Grid(4))
    assert (solved.packed.dequantize()[:, 5] == 0).all()
    assert solved.packed.scale.max() < 1


def test_singular_hessian_gets_more_damping_and_a_bad_one_is_refused():
    rank_one = torch.ones(64, 64)
    factor = factorize(rank_one, 1e-9)
    assert factor.damping > 1e-9
    with pytest.raises(RetrofitError, match="not finite"):
        factorize(rank_one * float("nan"))
    with pytest.raises(RetrofitError, match="singular"):
        factorize(-torch.eye(64) * 3)

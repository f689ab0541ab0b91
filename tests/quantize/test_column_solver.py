"""GPTQ's solver against the published code's results, and the identities it must satisfy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from methods.quantize.column_solver import factorize, solve
from methods.quantize.grid import Grid

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

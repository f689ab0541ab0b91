"""The equations of learned rounding against the authors' arrays and their own definitions."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.quantize import bit_allocation, rounding
from methods.quantize.grid import Grid, grouped
from methods.quantize.learned_params import LearnedRounding
from methods.quantize.rounding_variables import VARIABLES, initial_range, nearest
from methods.quantize.scale_tuning import Dequantize, divergence
from methods.study.errors import RetrofitError

LLM = Path(__file__).parents[1] / "golden" / "llm"


def golden(name):
    with np.load(LLM / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


ADA, AUTO = golden("adaround"), golden("autoround_int")


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


def variable(kind, weight, bits=4, group_size=-1, scale=None, zero=None, **params):
    grid = Grid(bits, group_size)
    groups = grouped(weight, group_size)
    if scale is None:
        scale, zero = initial_range(groups, grid)
    settings = LearnedRounding(
        bits=bits, group_size=group_size, scale_dtype="float32", parametrisation=kind, **params
    )
    return VARIABLES[kind](groups.clone(), scale, zero, grid, settings)


def test_h_its_inverse_and_the_regulariser_are_adarounds():
    close(rounding.rectified_sigmoid(ADA["V_grid"]), ADA["h_grid"])
    for beta in (2, 5, 10, 20):
        each = [float(rounding.rounding_regulariser(h, beta)) for h in ADA["h_grid"]]
        close(torch.tensor(each), ADA[f"freg_beta{beta}"])
    rest = torch.linspace(0.01, 0.99, 50)
    close(rounding.rectified_sigmoid(rounding.inverse_rectified_sigmoid(rest)), rest)


def test_the_beta_schedule_is_adarounds():
    for step, wanted in zip(ADA["beta_t"].tolist(), ADA["beta_val"].tolist(), strict=True):
        found = rounding.beta_at(step, 20000)
        if step < 4000:
            assert found is None
        else:
            assert found == pytest.approx(wanted)


def test_adaround_starts_at_the_float_weight_and_at_the_published_v():
    scale, zero = ADA["uaq_mse_b4_delta"], ADA["uaq_mse_b4_zp"]
    found = variable("adaround", ADA["W"], 4, scale=scale, zero=zero, learn_range=False)
    close(found.v.flatten(1), ADA["alpha0"], 1e-4)
    close(rounding.rectified_sigmoid(found.v).flatten(1), ADA["h0"])
    close(found.weight(), ADA["soft_dq0"])
    close(found.weight(soft=False), ADA["hard_dq0"])


def test_four_hundred_steps_of_adaround_follow_the_published_curve():
    scale, zero = ADA["train_delta"], ADA["train_zp"]
    learned = variable("adaround", ADA["W"], 3, scale=scale, zero=zero, learn_range=False)
    x, wanted = ADA["train_X"], ADA["train_X"] @ ADA["W"].T
    optimizer = torch.optim.Adam([learned.v], lr=1e-3)
    losses = []
    for step in range(400):
        loss = (x @ learned.weight().T - wanted).square().sum(1).mean()
        more = learned.regulariser(step + 1, 400)  # the published count starts at 1
        total = loss if more is None else loss + more
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    close(torch.tensor(losses, dtype=torch.float64), ADA["train_loss"], 1e-3)
    close(learned.v.detach().flatten(1), ADA["train_alpha_end"], 1e-3)
    close(learned.weight(soft=False).detach(), ADA["train_hard_dq"])


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_autorounds_integer_form_is_the_published_one(bits):
    weight = AUTO["W"]
    groups = grouped(weight, 64)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    alpha, beta = (AUTO[n].view(16, 2) for n in ("min_scale", "max_scale"))
    scale, zero = rounding.scaled_range(low, high, alpha, beta, 2**bits - 1)
    close(scale, AUTO[f"asym{bits}_scale"])
    close(zero.flatten(), AUTO[f"asym{bits}_zp"])
    codes = rounding.shifted_codes(
        groups / scale[..., None], AUTO["v"].view_as(groups), zero, 2**bits - 1
    )
    found = ((codes - zero[..., None]) * scale[..., None]).view_as(weight)
    close(found, AUTO[f"asym{bits}_dq"])


def test_every_variable_starts_at_rounding_to_nearest():
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    for kind in ("autoround", "plus_minus_one", "full_range", "flexround"):
        start = variable(kind, weight, 3, 32)
        wanted = nearest(start.groups, start.scale0, start.zero0, start.grid).dequantize()
        close(start.weight(soft=False).detach(), wanted, 1e-6)
        assert start.packed().same_as(nearest(start.groups, start.scale0, start.zero0, start.grid))


@pytest.mark.parametrize(
    ("kind", "reach"), [("adaround", 1), ("plus_minus_one", 2), ("autoround", 1)]
)
def test_a_variable_reaches_only_the_codes_it_may(kind, reach):
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    learned = variable(kind, weight, 4, 32, learn_range=False)
    parameter = learned.rounding_parameters()[0]
    with torch.no_grad():
        parameter.normal_(0, 30, generator=torch.Generator().manual_seed(1))
        learned.project()
        moved = (learned.codes(soft=False) - (learned.ratio + learned.zero0[..., None])).abs()
        inside = (learned.codes(soft=False) > 0) & (learned.codes(soft=False) < 15)
    assert moved[inside].max() <= reach + 1e-4 - 0.5 * (kind == "plus_minus_one")
    low, high = learned.ratio.floor(), learned.ratio.ceil()
    if kind == "adaround":
        codes = learned.codes(soft=False) - learned.zero0[..., None]
        assert ((codes == low) | (codes == high))[inside].all()


def test_full_range_reaches_any_code():
    learned = variable("full_range", torch.zeros(2, 32) + torch.linspace(-1, 1, 32), 4)
    with torch.no_grad():
        learned.u.fill_(100)
    assert (learned.codes(soft=False) == 15).all()


def test_the_gradient_of_h_is_its_slope():
    v = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(rounding.rectified_sigmoid, v)


def test_power_maps_keep_products_and_invert():
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(100, generator=g) for _ in range(2))
    close(rounding.power_map(x * y, 0.6), rounding.power_map(x, 0.6) * rounding.power_map(y, 0.6))
    close(rounding.power_inverse(rounding.power_map(x, 0.6), 0.6), x)
    groups = x.view(1, 4, 25)
    top = 7
    scale = groups.abs().amax(-1, keepdim=True) / top
    close(rounding.power_quantize(groups, 1.0, 4), (groups / scale).round() * scale)


def test_weights_that_are_not_free_keep_their_nearest_code():
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    free = torch.zeros(4, 1, 32, dtype=torch.bool)
    free[:, :, :8] = True
    start = variable("full_range", weight, 4)
    learned = VARIABLES["full_range"](
        start.groups, start.scale0, start.zero0, start.grid, start.params, free
    )
    with torch.no_grad():
        learned.u.add_(3)
        held = learned.codes(soft=False)[..., 8:]
        assert torch.equal(held, start.codes(soft=False)[..., 8:])
        assert not torch.equal(learned.codes(soft=False), start.codes(soft=False))


def test_weights_that_are_not_free_follow_a_learned_scale():
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    start = variable("full_range", weight, 4)
    held = torch.zeros(4, 1, 32, dtype=torch.bool)
    learned = VARIABLES["full_range"](
        start.groups, start.scale0, start.zero0, start.grid, start.params, held
    )
    with torch.no_grad():
        learned.log_scale.fill_(0.3)
        scale = start.scale0 * torch.tensor(0.3).exp()
        wanted = nearest(start.groups, scale, start.zero0, start.grid).dequantize()
        close(learned.weight(soft=False), wanted)


def test_taylor_importance_does_not_cancel():
    gradient, delta = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.5, -0.5]])
    assert bit_allocation.taylor(gradient, delta) == 1.0


def test_the_dequantised_weight_has_the_gradient_of_its_formula():
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (6, 32), generator=g).to(torch.uint8)
    zero = torch.randint(0, 16, (6, 2), generator=g).to(torch.int32)
    scale = torch.rand(6, 2, generator=g).requires_grad_()
    up = torch.randn(6, 32, generator=g)
    plain = ((codes.float().view(6, 2, 16) - zero[..., None]) * scale[..., None]).view(6, 32)
    (wanted,) = torch.autograd.grad((plain * up).sum(), scale)
    found = Dequantize.apply(codes, zero, scale, torch.float32)
    close(found, plain)
    (grad,) = torch.autograd.grad((found * up).sum(), scale)
    close(grad, wanted)


def test_divergence_and_its_gradient_are_torchs():
    g = torch.Generator().manual_seed(0)
    found = torch.randn(3, 50, 40, generator=g).requires_grad_()
    wanted = torch.randn(3, 50, 40, generator=g)
    plain = torch.nn.functional.kl_div(
        found.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="none"
    )
    plain = plain.sum(-1).mean()
    ours = divergence(found, wanted)
    close(ours, plain)
    close(*(torch.autograd.grad(value, found)[0] for value in (ours, plain)))


def test_allocation_is_the_best_of_all_choices():
    g = torch.Generator().manual_seed(0)
    for average in (2.0, 2.7, 3.3, 8.0):
        costs = torch.rand(5, 3, generator=g).sort(1, descending=True).values.tolist()
        sizes, candidates = [3, 1, 4, 2, 5], [2, 3, 8]
        found = bit_allocation.allocate(costs, sizes, candidates, average)

        def cost(widths, costs=costs, candidates=candidates):
            return sum(row[candidates.index(b)] for row, b in zip(costs, widths, strict=True))

        def fits(widths, sizes=sizes, average=average):
            bits = sum(b * s for b, s in zip(widths, sizes, strict=True))
            return bits <= average * sum(sizes) + 1e-9

        best = min(cost(w) for w in product(candidates, repeat=5) if fits(w))
        assert fits(found)
        assert cost(found) == pytest.approx(best)


def test_equal_importance_gives_equal_bits_and_a_budget_below_the_least_is_refused():
    costs = [[1 / b for b in (2, 3, 4)]] * 4
    assert bit_allocation.allocate(costs, [7] * 4, [2, 3, 4], 3.0) == [3, 3, 3, 3]
    with pytest.raises(RetrofitError, match="below the narrowest"):
        bit_allocation.allocate(costs, [7] * 4, [3, 4, 8], 2.5)

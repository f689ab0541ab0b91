"""StatsQ and LSQ against the authors' arrays, their closed forms and what must always hold."""

import math
from itertools import product

import pytest
import torch

from methods.quantize_aware.quantizers import (
    code_range,
    lsq,
    lsq_initial_step,
    masked_gradient,
    near_threshold,
    statsq,
    statsq_position,
    statsq_scale,
)
from tests.quantize_aware.golden import golden

STATSQ, LSQ = golden("statsq"), golden("lsq")
LAYOUTS = {
    "act_tok_signed": (True, -2),
    "act_tok_unsigned": (False, -2),
    "act_chan_v": (True, -1),
    "softmax_unsigned": (False, -2),
    "weight_row": (True, 0),
    "weight_tensor": (True, None),
    "head_input": (True, None),
    "img": (True, 1),
    "conv_weight": (True, 0),
}


def close(found, wanted, tolerance=3e-7):
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)


def gaussian(rows=256, columns=400, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("bits", "shape"), list(product((2, 3, 4, 8), ("2d", "3d", "4d"))))
def test_statsq_is_the_authors(bits, shape):
    w = STATSQ[f"w{shape}"].clone().requires_grad_()
    close(statsq_scale(w).flatten(), STATSQ[f"b{bits}_{shape}_scale"], 3e-8)
    out = statsq(w, bits)
    close(out.detach(), STATSQ[f"b{bits}_{shape}_out"], 3e-8)
    out.backward(STATSQ[f"up{shape}"])
    assert torch.equal(w.grad, STATSQ[f"up{shape}"])
    assert torch.equal(w.grad, STATSQ[f"b{bits}_{shape}_grad"])


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_statsq_at_ties_and_ends(bits):
    found = statsq(STATSQ[f"edge_b{bits}_in"], bits, STATSQ[f"edge_b{bits}_scale"])
    assert torch.equal(found, STATSQ[f"edge_b{bits}_out"])


def test_statsq_one_bit_is_refused_and_the_published_one_is_indeed_broken():
    with pytest.raises(ValueError, match="two bits or more"):
        statsq(gaussian(2, 3), 1)
    assert float(STATSQ["edge_b1_out"].min()) == -1.5


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_statsq_levels(bits):
    w = gaussian(16, 4000)
    q, scale = statsq(w, bits), statsq_scale(w)
    close(scale[:, 0], 2 * w.abs().mean(1), 1e-6)
    odd = (q / scale * 2**bits).round().unique()
    assert odd.tolist() == list(range(1 - 2**bits, 2**bits, 2))
    close(q, scale * (q / scale * 2**bits).round() / 2**bits, 1e-6)
    close(statsq(-w, bits), -q, 1e-6)
    close(statsq(3 * w, bits), 3 * q, 1e-6)


def test_statsq_is_not_idempotent_and_never_zero():
    w = gaussian(4, 64)
    once = statsq(w, 2)
    assert (statsq(once, 2) - once).abs().max() > 1e-3
    w[:, ::2] = 0
    assert (statsq(w, 2) == 0).sum() == 0
    assert torch.isfinite(statsq(torch.zeros(2, 3), 2)).all()


@pytest.mark.parametrize(("bits", "entropy"), [(2, 1.984), (3, 2.979), (4, 3.949)])
def test_statsq_uses_its_codes_nearly_equally_on_gaussian_weights(bits, entropy):
    w = gaussian(64, 4096)
    codes = (statsq_position(w, statsq_scale(w), bits).round() + 2 ** (bits - 1)).long()
    share = torch.bincount(codes.flatten()).double() / codes.numel()
    assert float(-(share * share.log2()).sum()) == pytest.approx(entropy, abs=0.01)


CASES = [
    (name, bits, part)
    for name, bits, part in product(LAYOUTS, (1, 2, 3, 4, 8), ("", "_p07"))
    if f"{name}_b{bits}_x" in LSQ and not (bits == 1 and LAYOUTS[name][0])
]


@pytest.mark.parametrize(("name", "bits", "part"), CASES)
def test_lsq_is_the_authors(name, bits, part):
    signed, axis = LAYOUTS[name]
    key = f"{name}_b{bits}"
    x = LSQ[f"{key}_x"].clone().requires_grad_()
    close(lsq_initial_step(x, bits, signed, axis), LSQ[f"{key}_s_init"])
    step = (LSQ[f"{key}_s_init"] * (0.7 if part else 1)).requires_grad_()
    out = lsq(x, step, bits, signed, axis)
    out.backward(LSQ[f"{key}_up"])
    close(out.detach(), LSQ[f"{key}{part}_out"])
    close(x.grad, LSQ[f"{key}{part}_gx"])
    close(step.grad, LSQ[f"{key}{part}_gs"], 1e-6)


def test_lsq_gradients_in_closed_form_at_and_beyond_both_ends():
    # Signed 2 bits: codes -2 … 1.  v = x / s; the ends themselves count as inside.
    step = torch.tensor([0.5], requires_grad=True)
    v = torch.tensor([[-3.0, -2.0, -0.4, 0.6, 1.0, 1.4]])
    x = (v * 0.5).requires_grad_()
    up = torch.arange(1.0, 7.0)[None]
    lsq(x, step, 2).backward(up)
    assert torch.equal(x.grad, up * torch.tensor([0.0, 1, 1, 1, 1, 0]))
    each = torch.tensor([-2.0, 0.0, 0.4, 0.4, 0.0, 1.0])
    close(step.grad, (up * each).sum()[None] / math.sqrt(1 * 6), 1e-6)


def test_a_step_below_the_smallest_counts_as_it_and_still_learns():
    step = torch.tensor([-1.0], requires_grad=True)
    x = torch.tensor([[0.3, -0.3]])
    out = lsq(x, step, 2)
    close(out.detach(), torch.tensor([[1e-5, -2e-5]]), 1e-9)
    out.sum().backward()
    assert float(step.grad) != 0


def test_near_a_threshold():
    low, high = code_range(2)
    position = torch.tensor([-2.5, -1.5, -1.51, -1.0, -0.497, 0.5, 0.506, 1.5, 9.0])
    found = near_threshold(position, low, high, 0.005)
    # 1.5 and -2.5 are where clipping begins: no code changes there.
    assert found.tolist() == [False, True, False, False, True, True, False, False, False]
    wider = near_threshold(position, low, high, 0.02)
    assert (wider | ~found).all()
    assert wider.sum() > found.sum()
    for boundary in (0.5, 0.7, -0.1):
        with pytest.raises(ValueError, match="half a step"):
            near_threshold(position, low, high, boundary)


def test_the_share_near_a_threshold_is_that_of_a_gaussian():
    w = gaussian(100, 20_000)
    bits, boundary = 2, 0.05
    found = near_threshold(
        statsq_position(w, statsq_scale(w), bits), *code_range(bits), boundary
    ).float()
    step = math.sqrt(2 / math.pi)  # E|w|
    below = lambda z: 0.5 * (1 + math.erf(z / math.sqrt(2)))  # noqa: E731
    wanted = sum(below((i + boundary) * step) - below((i - boundary) * step) for i in (-1, 0, 1))
    assert float(found.mean()) == pytest.approx(wanted, rel=0.02)


def test_a_masked_gradient_leaves_the_value_alone():
    w = gaussian(3, 5).requires_grad_()
    mask = w.detach() > 0
    out = masked_gradient(w, mask)
    assert torch.equal(out, w)
    (2 * out).sum().backward()
    assert torch.equal(w.grad, 2.0 * mask)

"""The three forms of the recurrence against published arrays, each other, and their gradients."""

from __future__ import annotations

import pytest
import torch

from methods.linearize import gates
from methods.linearize.recurrence import FORGET, chunked, parallel, recurrent, slots, step
from methods.study.errors import RetrofitError
from tests.linearize.golden import arrays, head_first

FORMS = {"recurrent": (recurrent, 2e-6), "parallel": (parallel, 5e-5), "chunked": (chunked, 5e-5)}


def example(kind: str):
    """(q, k, v, log gate, first state, outputs, last state) of one golden case."""
    z = arrays("fla_naive")
    q, k, v = (head_first(f"gla_{n}") for n in "qkv")
    scale = q.shape[-1] ** -0.5
    if kind == "gla":
        return q * scale, k, v, head_first("gla_gk"), z["gla_h0"], head_first("gla_o"), z["gla_s"]
    if kind == "hard":
        gate = head_first("gla_hard_gk")
        return q * scale, k, v, gate, None, head_first("gla_hard_o"), z["gla_hard_s"]
    if kind == "scalar":
        gate = z["sgla_g"].transpose(1, 2)[..., None]
        return q * scale, k, v, gate, z["gla_h0"], head_first("sgla_o"), z["sgla_s"]
    if kind == "retention":
        v = v[..., :16]
        gate = gates.log_gates("retention", k)
        return q * scale, k, v, gate, None, head_first("ret_o"), None
    raise AssertionError(kind)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["gla", "scalar", "retention", "hard"])
def test_every_form_gives_the_published_outputs(kind, form):
    if (kind, form) == ("hard", "parallel"):
        pytest.skip("overflows by design")
    q, k, v, gate, state, outputs, last = example(kind)
    function, tolerance = FORMS[form]
    if kind == "retention":  # published in the parallel form only
        tolerance = 5e-5
    found, final = function(q, k, v, gate, state)
    torch.testing.assert_close(found, outputs, atol=tolerance, rtol=tolerance)
    if last is not None:
        torch.testing.assert_close(final, last, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("form", ["recurrent", "chunked"])
def test_gated_slots_give_the_published_outputs(form):
    z = arrays("fla_naive")
    function, tolerance = FORMS[form]
    q, k, v = (head_first(f"gla_{n}") for n in "qkv")
    found, (first, second) = slots(
        q, k, v, head_first("gsa_slots"), head_first("gsa_g"), form=function
    )
    torch.testing.assert_close(found, head_first("gsa_o"), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(first, z["gsa_sk"], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(second, z["gsa_sv"], atol=tolerance, rtol=tolerance)


def test_without_gates_it_is_linear_attention():
    q, k = (head_first(f"gla_{n}").softmax(-1) for n in "qk")
    v, z = head_first("gla_v"), arrays("fla_naive")
    found, state = chunked(q, k, v)
    mass = (q * k.cumsum(2)).sum(-1, keepdim=True)
    torch.testing.assert_close(found / mass, head_first("la_o_normalized"), atol=5e-5, rtol=5e-5)
    torch.testing.assert_close(state, z["la_s"], atol=5e-5, rtol=5e-5)


def draw(length, width, values, gate_width, hardness, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(2, 3, length, width, generator=g) for _ in range(2))
    v = torch.randn(2, 3, length, values, generator=g)
    gate = torch.nn.functional.logsigmoid(
        torch.randn(2, 3, length, gate_width, generator=g) * hardness
    )
    state = torch.randn(2, 3, width, values, generator=g)
    return q, k, v, gate, state


@pytest.mark.parametrize("side", ["key", "value"])
@pytest.mark.parametrize("hardness", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize("length", [1, 63, 64, 150])
def test_chunks_agree_with_the_definition_in_outputs_states_and_gradients(
    side, hardness, scalar, length
):
    width, values = 20, 12
    gate_width = 1 if scalar else (width if side == "key" else values)
    inputs = draw(length, width, values, gate_width, hardness)
    results = []
    for function in (recurrent, chunked):
        leaves = [t.clone().requires_grad_() for t in inputs]
        out, last = function(*leaves, side=side)
        (out.square().sum() + last.square().sum()).backward()
        results.append([out, last, *(leaf.grad for leaf in leaves)])
    for wanted, found in zip(*results, strict=True):
        assert torch.isfinite(found).all()
        error = (found - wanted).norm() / wanted.norm().clamp(min=1e-6)
        # In a sum of hundreds a float32 keeps a gate to 1e-5 only.
        assert error < (2e-5 if hardness < 10 else 1e-4)


def test_steps_continue_a_prefill():
    q, k, v, gate, state = draw(70, 8, 6, 8, 1.0)
    wanted, last = recurrent(q, k, v, gate, state)
    _, carried = chunked(q[:, :, :50], k[:, :, :50], v[:, :, :50], gate[:, :, :50], state)
    carried = carried.clone()
    for t in range(50, 70):
        out = step(q[:, :, t], k[:, :, t], v[:, :, t], gate[:, :, t], carried)
        torch.testing.assert_close(out, wanted[:, :, t], atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(carried, last, atol=2e-5, rtol=2e-5)


def test_a_forget_gate_cuts_the_past():
    q, k, v, gate, _ = draw(90, 8, 6, 8, 0.1)
    gate[:, :, 40] = FORGET
    whole, _ = chunked(q, k, v, gate)
    late, _ = chunked(q[:, :, 40:], k[:, :, 40:], v[:, :, 40:], gate[:, :, 40:])
    torch.testing.assert_close(whole[:, :, 40:], late, atol=3e-5, rtol=3e-5)


def test_wrong_shapes_are_refused():
    q, k, v, gate, _ = draw(8, 8, 6, 8, 1.0)
    with pytest.raises(RetrofitError, match="takes q"):
        chunked(q[..., :4], k, v, gate)
    with pytest.raises(RetrofitError, match="log gates must be"):
        chunked(q, k, v, gate[..., :5])
    with pytest.raises(RetrofitError, match="blocks of 7"):
        chunked(q, k, v, gate, block=7)

"""Window attention against softmax over all keys with a mask, with past, padding, sinks, documents."""

from __future__ import annotations

import pytest
import torch

from methods.linearize.window import Keys, first_keys, window_attention, window_mass


def draw(length, kv=2, groups=3, width=8, rows=2):
    g = torch.Generator().manual_seed(length)
    q = torch.randn(rows, kv * groups, length, width, generator=g)
    k, v = (torch.randn(rows, kv, length, width, generator=g) for _ in range(2))
    return q, k, v


def masked_softmax(q, k, v, seen, scale):
    """The definition: `seen` bool `[rows or 1, T, n]`."""
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    scores = (q @ k.mT * scale).masked_fill(~seen[:, None], -torch.inf)
    mass = (scores - scores.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True)
    return scores.softmax(-1) @ v, mass


def band(length, keys, window):
    row = torch.arange(length)[:, None] + keys - length
    column = torch.arange(keys)[None]
    return ((column <= row) & (column > row - window))[None]


@pytest.mark.parametrize("window", [1, 5, 16, 200])
@pytest.mark.parametrize("length", [1, 15, 16, 70])
def test_it_is_softmax_over_a_band(window, length):
    q, k, v = draw(length)
    wanted, mass = masked_softmax(q, k, v, band(length, length, window), 0.3)
    found = window_attention(q, None, Keys(k, v), window, 0.3)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)
    found, found_mass = window_mass(q, None, Keys(k, v), window, 0.3)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(found_mass, mass, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("behind", [1, 7, 8])
@pytest.mark.parametrize("length", [1, 3, 8, 40])
def test_keys_before_the_new_ones_are_seen(behind, length):
    q, k, v = draw(behind + length)
    wanted, _ = masked_softmax(q, k, v, band(behind + length, behind + length, 8), 0.3)
    past, new = (
        Keys(k[:, :, part], v[:, :, part]) for part in (slice(behind), slice(behind, None))
    )
    found = window_attention(q[:, :, behind:], past, new, 8, 0.3)
    torch.testing.assert_close(found, wanted[:, :, behind:], atol=2e-6, rtol=1e-5)


def test_padding_is_not_seen_and_a_row_of_padding_is_no_nan():
    q, k, v = draw(30)
    valid = torch.ones(2, 30, dtype=torch.bool)
    valid[0, :9] = False
    seen = band(30, 30, 8) & valid[:, None]
    found = window_attention(q, None, Keys(k, v, valid), 8, 0.3)
    assert torch.isfinite(found).all()
    wanted, _ = masked_softmax(q, k, v, seen, 0.3)
    torch.testing.assert_close(found[0, :, 9:], wanted[0, :, 9:], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(found[1], wanted[1], atol=2e-6, rtol=1e-5)


def test_documents_do_not_see_each_other():
    q, k, v = draw(30)
    document = torch.zeros(2, 30, dtype=torch.int64)
    document[:, 11:], document[1, 20:] = 1, 2
    seen = band(30, 30, 8) & (document[:, :, None] == document[:, None, :])
    wanted, _ = masked_softmax(q, k, v, seen, 0.3)
    found = window_attention(q, None, Keys(k, v, None, document), 8, 0.3)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("padding", [0, 5])
def test_sinks_are_seen_once_from_everywhere(padding):
    q, k, v = draw(50)
    valid = torch.ones(2, 50, dtype=torch.bool)
    valid[1, :padding] = False
    keys = Keys(k, v, valid)
    seen = band(50, 50, 8).repeat(2, 1, 1)
    causal = torch.ones(50, 50, dtype=torch.bool).tril()
    for row, first in enumerate((0, padding)):
        seen[row, :, first : first + 3] |= causal[:, first : first + 3]
    seen &= valid[:, None]
    wanted, _ = masked_softmax(q, k, v, seen, 0.3)
    found = window_attention(q, None, keys, 8, 0.3, first_keys(keys, 3))
    torch.testing.assert_close(found[0], wanted[0], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(found[1, :, padding:], wanted[1, :, padding:], atol=2e-6, rtol=1e-5)


def test_gradients_are_those_of_the_definition():
    q, k, v = (t.requires_grad_() for t in draw(40))
    grads = []
    for out in (
        masked_softmax(q, k, v, band(40, 40, 8), 0.3)[0],
        window_attention(q, None, Keys(k, v), 8, 0.3),
    ):
        grads.append(torch.autograd.grad(out.square().sum(), (q, k, v)))
    for wanted, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)

"""Measures of change: published values, definitions written out, and invariances."""

import numpy as np
import pytest
import torch

from methods.dynamics.rich_lazy import measures
from methods.dynamics.rich_lazy.network import states
from tests.dynamics.rich_lazy import golden


def hidden(seed, members=6, samples=11, size=5):
    g = torch.Generator().manual_seed(seed)
    return torch.relu(torch.randn(members, samples, size, generator=g, dtype=torch.float64))


def test_all_measures_are_the_published_ones():
    before, after = golden.weights("init"), golden.weights("final")
    h0, h = states(before, golden.inputs()), states(after, golden.inputs())
    known = golden.network()
    found = {
        "dW": measures.weight_change(before.w_h, after.w_h),
        "rep_align": measures.representation_alignment(h0[:, -1], h[:, -1]),
        "sign": measures.sign_similarity(h0, h),
    }
    for name, value in found.items():
        assert float(value) == pytest.approx(float(known[f"metric/{name}"]), rel=1e-5)


def test_representation_alignment_is_that_of_the_matrices_of_samples():
    a, b = hidden(0), hidden(1)
    r0, r = a @ a.mT, b @ b.mT
    expected = (r0 * r).sum((1, 2)) / (r0.norm(dim=(1, 2)) * r.norm(dim=(1, 2)))
    torch.testing.assert_close(measures.representation_alignment(a, b), expected)


def test_representation_alignment_has_its_bounds_and_does_not_see_rotations():
    a, b = hidden(0, 50), hidden(1, 50)
    found = measures.representation_alignment(a, b)
    assert (found > 0).all()
    assert (found < 1).all()
    torch.testing.assert_close(
        measures.representation_alignment(a, 3 * a), torch.ones(50, dtype=torch.float64)
    )
    q = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(2)).double())[0]
    torch.testing.assert_close(measures.representation_alignment(a, b @ q), found)


def test_what_is_silent_is_said_to_be():
    a = hidden(0, 2)
    a[1] = 0.0
    assert measures.silent(a).tolist() == [False, True]
    assert measures.representation_alignment(hidden(1, 2), a)[1] == 0.0


def test_effective_ranks_count_equal_singular_values():
    rng = np.random.default_rng(0)
    for rank in (1, 3, 8):
        left, right = (np.linalg.qr(rng.normal(size=(8, rank)))[0] for _ in range(2))
        w = 2.5 * left @ right.T
        assert measures.participation_ratio(w) == pytest.approx(rank)
        assert measures.entropy_rank(w) == pytest.approx(rank)


def test_effective_ranks_by_hand():
    w = np.diag([3.0, 1.0, 0.0])
    assert measures.participation_ratio(w) == pytest.approx(16 / 10)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert measures.entropy_rank(w) == pytest.approx(np.exp(entropy))

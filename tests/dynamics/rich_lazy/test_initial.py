"""Rank and size of initial weights: what stays the same over ranks, the published matrix, and refusals."""

import numpy as np
import pytest

from methods.dynamics.rich_lazy import initial
from methods.dynamics.rich_lazy.params import RichLazy
from methods.study.errors import RetrofitError
from tests.dynamics.rich_lazy import golden


def gaussians(count=4, size=20, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([initial.gaussian(size, 1.25, rng) for _ in range(count)])


def test_truncation_is_the_published_one():
    found = initial.truncated(golden.network()["W_gauss"], 4)
    np.testing.assert_allclose(found, golden.network()["init/rnn.h2h.weight"], atol=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 7, 20])
def test_norm_is_constant_over_ranks_and_the_rank_is_the_rank(rank):
    w = gaussians()
    low = initial.truncated(w, rank)
    np.testing.assert_allclose(initial.frobenius(low), initial.frobenius(w), rtol=1e-12)
    assert np.linalg.matrix_rank(low).tolist() == [rank] * 4


def test_full_rank_is_the_matrix_itself():
    np.testing.assert_allclose(initial.truncated(gaussians(), 20), gaussians(), atol=1e-12)


def test_truncation_keeps_the_leading_singular_vectors_in_proportion():
    w = gaussians(1)[0]
    s, t = (np.linalg.svd(m, compute_uv=False) for m in (w, initial.truncated(w, 5)))
    np.testing.assert_allclose(t[:5] / t[0], s[:5] / s[0])


def test_a_gaussian_has_its_gain_as_spectral_radius():
    w = initial.gaussian(400, 1.25, np.random.default_rng(0))
    assert initial.spectral_radius(w) == pytest.approx(1.25, rel=0.05)
    assert initial.frobenius(w) == pytest.approx(1.25 * 20, rel=0.01)


@pytest.mark.parametrize("normalize", ["fro", "spectral"])
def test_matching_gives_the_reference_its_size_and_only_scales(normalize):
    w, reference = gaussians(seed=1) * 7, gaussians()
    found = initial.matched(w, reference, normalize)
    size = initial.SIZES[normalize]
    np.testing.assert_allclose(size(found), size(reference))
    ratio = found / w
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape))


def test_the_radius_of_rank_one_is_no_measure_of_its_size():
    # |u . v| s: over draws of equal Frobenius norm it spreads over more than a factor of 30.
    low = initial.truncated(gaussians(200, 30), 1)
    radius = initial.spectral_radius(low)
    assert radius.max() / radius.min() > 30
    u, s, v = np.linalg.svd(low)
    np.testing.assert_allclose(radius, np.abs((u[:, :, 0] * v[:, 0]).sum(1)) * s[:, 0], rtol=1e-6)


def test_refusals():
    w = gaussians()
    with pytest.raises(
        RetrofitError, match="rank 21: a network of 20 units has ranks from 1 to 20"
    ):
        initial.truncated(w, 21)
    with pytest.raises(RetrofitError, match="rank 0"):
        initial.truncated(w, 0)
    w[1, 2, 3] = np.nan
    with pytest.raises(RetrofitError, match=r"not finite at \[1, 2, 3\]"):
        initial.truncated(w, 2)
    nilpotent = np.triu(np.ones((5, 5)), 1)
    with pytest.raises(
        RetrofitError, match="normalize: spectral: the initial weights have spectral"
    ):
        initial.matched(nilpotent, np.eye(5), "spectral")
    assert RichLazy().gain == 1.25

"""AWQ's scale search against the published code, and its invariants."""

from pathlib import Path

import numpy as np
import pytest
import torch

from methods.quantize.grid import Grid, pseudo_quantize
from methods.quantize.output_error import linear_output_loss, second_moment
from methods.quantize.scale_search import (
    candidate_scales,
    channel_magnitude,
    scaled_rounding,
    search_scale,
    weight_magnitude,
)

GOLDEN = dict(np.load(Path(__file__).parents[1] / "golden" / "llm" / "awq_scale_search.npz"))
WEIGHT, X = torch.from_numpy(GOLDEN["W"]), torch.from_numpy(GOLDEN["X"])
GRAM = second_moment(X) / len(X)


def gram_loss(changed):
    return linear_output_loss(changed - WEIGHT, GRAM)


def test_statistics_and_candidates_are_the_published_ones():
    x = channel_magnitude(X)
    np.testing.assert_allclose(x, GOLDEN["x_mean_abs"], rtol=1e-6)
    candidates = candidate_scales(x)
    assert [c.ratio for c in candidates] == [i / 20 for i in range(20)]
    np.testing.assert_allclose(
        torch.stack([c.scale for c in candidates]), GOLDEN["all_scales"], rtol=1e-5
    )
    np.testing.assert_allclose(weight_magnitude(WEIGHT, 64), GOLDEN["w_scale_g64"], rtol=1e-5)


@pytest.mark.parametrize("case", ["b3_g64", "b4_g64", "b4_g128", "b3_g-1"])
def test_losses_and_choice_are_the_published_ones(case):
    bits, group_size = (int(part[1:]) for part in case.split("_"))
    grid = Grid(bits, group_size, in_range=False)
    found = search_scale(WEIGHT, candidate_scales(channel_magnitude(X)), gram_loss, grid)
    np.testing.assert_allclose(found.losses, GOLDEN[f"{case}_loss"], rtol=1e-4)
    assert found.best.ratio == pytest.approx(float(GOLDEN[f"{case}_best_ratio"]))
    np.testing.assert_allclose(found.best.scale, GOLDEN[f"{case}_best_scales"], rtol=1e-5)


def test_half_precision_products_find_the_same_scale():
    grid, candidates = Grid(3, 64), candidate_scales(channel_magnitude(X))
    exact = search_scale(WEIGHT, candidates, gram_loss, grid)
    half = GRAM.bfloat16()
    fast = search_scale(WEIGHT, candidates, lambda w: linear_output_loss(w - WEIGHT, half), grid)
    np.testing.assert_allclose(fast.losses, exact.losses, rtol=2e-3)
    assert fast.best.ratio == exact.best.ratio


def test_searching_twice_gives_the_same_losses():
    # The published loop, on a CPU, "restores" weights from an alias of themselves.
    weight = WEIGHT.clone()
    candidates = candidate_scales(channel_magnitude(X))
    first = search_scale(weight, candidates, gram_loss, Grid(3, 64))
    second = search_scale(weight, candidates[::-1], gram_loss, Grid(3, 64))
    assert torch.equal(weight, WEIGHT)
    assert second.losses == first.losses[::-1]


def test_exponent_zero_is_no_scale_and_all_are_centred():
    candidates = candidate_scales(channel_magnitude(X))
    assert torch.equal(candidates[0].scale, torch.ones(128))
    for candidate in candidates:
        assert float(candidate.scale.max() * candidate.scale.min()) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("mode", ["act", "duo", "both"])
def test_never_worse_than_round_to_nearest(mode):
    x, w = channel_magnitude(X), weight_magnitude(WEIGHT, 64)
    for bits in (2, 3, 4, 8):
        grid = Grid(bits, 64)
        found = search_scale(WEIGHT, candidate_scales(x, w, 10, mode), gram_loss, grid)
        plain = float(gram_loss(pseudo_quantize(WEIGHT, grid)))
        assert found.loss_rtn == plain
        assert found.loss <= plain


def test_grids_of_the_other_implementations():
    x, w = channel_magnitude(X), weight_magnitude(WEIGHT, 64)
    assert [c.ratio for c in candidate_scales(x, grid=5, include_r1=True)] == [
        0,
        0.25,
        0.5,
        0.75,
        1,
    ]
    duo = candidate_scales(x, w, 4, "duo", include_identity=False)
    assert [(c.ratio, c.duo) for c in duo] == [(i / 4, True) for i in range(4)]
    assert not torch.allclose(duo[0].scale, torch.ones(128))
    both = candidate_scales(x, w, 20, "both")
    assert [c.duo for c in both] == [False] * 10 + [True] * 10
    with_identity = candidate_scales(x, w, 4, "duo")
    assert len(with_identity) == 5
    assert torch.equal(with_identity[0].scale, torch.ones(128))


def test_dead_and_exploding_channels_give_finite_scales():
    x = channel_magnitude(X).clone()
    x[3] = 0
    x[7] = 1e30
    w = weight_magnitude(WEIGHT, 64)
    w[5] = 0
    for mode in ("act", "duo"):
        for candidate in candidate_scales(x, w, 20, mode):
            assert torch.isfinite(candidate.scale).all()
            assert (candidate.scale > 0).all()
            assert torch.isfinite(scaled_rounding(WEIGHT, candidate.scale, Grid(4, 64))).all()


def test_screening():
    candidates = candidate_scales(channel_magnitude(X))
    whole = search_scale(WEIGHT, candidates, gram_loss, Grid(3, 64))
    calls = []
    found = search_scale(
        WEIGHT,
        candidates,
        lambda w: calls.append(1) or gram_loss(w),
        Grid(3, 64),
        screen=lambda w: gram_loss(w) * 2,
        shortlist=3,
    )
    assert found.best == whole.best
    assert (found.loss, found.loss_rtn) == (whole.loss, whole.loss_rtn)
    assert len(calls) == 4
    assert sum(loss == loss for loss in found.losses) == 4


def test_losses_that_are_not_finite_are_never_chosen():
    candidates = candidate_scales(channel_magnitude(X), grid=4)
    values = iter([float("nan"), float("inf"), 2.0, 3.0])
    found = search_scale(WEIGHT, candidates, lambda _: next(values), Grid(4, 64))
    assert found.best.ratio == 0.5
    assert search_scale(WEIGHT, candidates, lambda _: float("nan"), Grid(4, 64)) is None

"""Masks: counts to the last weight, SET and RigL as published, and where the published code slips."""

import numpy as np
import pytest
import torch

from methods.prune.masks import cubic_count, drop_and_grow, drop_fraction, random_mask, top_mask
from methods.study.errors import RetrofitError
from tests.prune.golden import DST


def golden(name):
    return torch.from_numpy(DST[name])


@pytest.mark.parametrize("s", [0.5, 0.75, 0.9])
def test_the_largest_are_kept(s):
    weight = golden("topk_w")
    count = int(golden(f"topk_mask_s{s}").sum())
    assert torch.equal(top_mask(weight.abs(), count), golden(f"topk_mask_s{s}"))


@pytest.mark.parametrize("drop", [0.1, 0.3, 0.5])
def test_rigl_moves_masks_as_published(drop):
    weight, mask, gradient = (golden(f"rigl_df{drop}_{n}") for n in ("w", "mask0", "densegrad"))
    found = drop_and_grow(weight, mask, gradient.abs(), drop, int(mask.sum()))
    assert torch.equal(found, golden(f"rigl_df{drop}_mask1"))


@pytest.mark.parametrize("drop", [0.1, 0.3, 0.5])
def test_set_keeps_what_the_published_code_keeps(drop):
    weight, mask = golden(f"set_df{drop}_w"), golden(f"set_df{drop}_mask0")
    count = int(mask.sum())
    kept = top_mask(torch.where(mask, weight.abs(), -1), count - int(drop * count))
    noise = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0))
    for found in (golden(f"set_df{drop}_mask1"), drop_and_grow(weight, mask, noise, drop, count)):
        assert found[kept].all()
        assert int(found.sum()) == count


def test_counts_hold_where_the_published_code_loses_weights():
    """Gradients that are zero everywhere, active weights that are zero, and both."""
    generator = torch.Generator().manual_seed(0)
    mask = random_mask(torch.Size((8, 9)), 30, generator)
    weight = torch.randn(8, 9, generator=generator) * mask
    for active in (weight, torch.where(weight.abs() > 1, weight, 0), torch.zeros(8, 9)):
        for score in (torch.zeros(8, 9), torch.rand(8, 9, generator=generator) * (~mask)):
            for drop in (0.3, 0.99):
                found = drop_and_grow(active, mask, score, drop, 30)
                assert int(found.sum()) == 30
    # An active zero is kept rather than an inactive one.
    assert torch.equal(drop_and_grow(torch.zeros(8, 9), mask, torch.zeros(8, 9), 1e-9, 30), mask)


def test_a_count_that_changes_is_met():
    mask = random_mask(torch.Size((10, 10)), 60, torch.Generator().manual_seed(0))
    weight = torch.arange(100.0).view(10, 10) * mask
    for count in (1, 30, 61, 100):
        assert int(drop_and_grow(weight, mask, torch.rand(10, 10), 0.3, count).sum()) == count


@pytest.mark.parametrize("count", [0, 1, 17, 60])
def test_random_masks_have_their_count_and_belong_to_their_seed(count):
    one, two, other = (
        random_mask(torch.Size((3, 4, 5)), count, torch.Generator().manual_seed(s))
        for s in (0, 0, 1)
    )
    assert int(one.sum()) == count
    assert torch.equal(one, two)
    assert count in (0, 60) or not torch.equal(one, other)


@pytest.mark.parametrize("count", [-1, 61])
def test_impossible_counts_are_refused(count):
    with pytest.raises(RetrofitError, match=f"60 weights cannot keep {count}"):
        random_mask(torch.Size((3, 4, 5)), count, torch.Generator())
    with pytest.raises(RetrofitError, match=f"60 weights cannot keep {count}"):
        top_mask(torch.rand(3, 4, 5), count)


def test_the_share_dropped_follows_the_published_cosine():
    end = int(DST["dropfrac_end_iteration"])
    found = [drop_fraction(step, end) for step in range(end)]
    np.testing.assert_allclose(found, DST["dropfrac_cosine"][:end], atol=1e-12)
    assert drop_fraction(end, end) == 0


def test_gradual_pruning_follows_its_cubic():
    counts = [cubic_count(step, 10, 50, 1000, 100) for step in range(60)]
    assert counts[0] == counts[10] == 1000
    assert counts[30] == 100 + round(900 * 0.5**3)
    assert counts[50] == counts[59] == 100
    assert counts == sorted(counts, reverse=True)
    assert cubic_count(5, 5, 5, 1000, 100) == 100  # all at once

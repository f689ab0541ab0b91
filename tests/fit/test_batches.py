"""Batches depend on seed and step only, and are what a loop over samples would give."""

import numpy as np
import pytest
import torch

from methods.fit.batches import (
    Batches,
    as_batch_first,
    held_out,
    moments,
    shift_and_flip,
    standardise,
    stream,
    subset,
)


def test_every_epoch_is_a_fresh_permutation():
    batches = Batches(10, 4, seed=1)
    epochs = [torch.cat([batches.indices(3 * e + i) for i in range(3)]) for e in range(2)]
    assert batches.per_epoch == 3
    assert [len(batches.indices(i)) for i in range(3)] == [4, 4, 2]
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_a_batch_does_not_depend_on_what_was_asked_before():
    one, other = Batches(10, 4, seed=1), Batches(10, 4, seed=1)
    for step in range(7):
        one.indices(step)
    assert torch.equal(one.indices(8), other.indices(8))
    assert torch.equal(one.indices(2), other.indices(2))
    assert not torch.equal(Batches(100, 50, seed=2).indices(0), Batches(100, 50, seed=1).indices(0))


def test_drop_last_and_impossible_sizes():
    assert Batches(10, 4, 0, drop_last=True).per_epoch == 2
    with pytest.raises(ValueError, match="leaves no batch"):
        Batches(3, 4, 0, drop_last=True)
    with pytest.raises(ValueError, match="must be > 0"):
        Batches(0, 4, 0)


def test_shards_together_are_the_batch():
    whole = Batches(10, 4, seed=1)
    shards = [Batches(10, 4, seed=1, shard=(rank, 2)) for rank in range(2)]
    for step in range(3):
        parts = torch.cat([shard.indices(step) for shard in shards])
        assert torch.equal(parts, whole.indices(step))


def test_held_out_samples_are_disjoint_and_complete():
    kept, out = held_out(20, 5, seed=3)
    assert len(out) == 5
    assert sorted([*kept.tolist(), *out.tolist()]) == list(range(20))
    assert len(held_out(20, 0, seed=3)[1]) == 0
    with pytest.raises(ValueError, match="cannot hold 20 of 20"):
        held_out(20, 20, seed=3)


def test_subset_is_the_same_for_every_seed_and_all_without_a_limit():
    assert torch.equal(subset(50, 7), subset(50, 7))
    assert len(set(subset(50, 7).tolist())) == 7
    assert subset(5, None).tolist() == subset(5, 9).tolist() == [0, 1, 2, 3, 4]


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("shape", [(30, 4, 5), (30, 4, 5, 3)])
def test_standardised_images_have_zero_mean_and_unit_variance(shape):
    x = images(*shape)
    mean, std = moments(x)
    y = standardise(as_batch_first(x), mean, std)
    assert y.shape == (30, shape[3] if len(shape) == 4 else 1, 4, 5)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(y.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        y.var((0, 2, 3), correction=0), torch.ones(y.shape[1]), atol=1e-5, rtol=0
    )
    picture = x[3] if x.ndim == 4 else x[3][..., None]
    expected = (picture[2, 1] / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(y[3, :, 2, 1].numpy(), expected, atol=1e-5)


def test_a_constant_channel_is_not_divided_by_zero():
    assert moments(np.full((3, 2, 2), 51, np.uint8)) == ([pytest.approx(0.2)], [1.0])


def test_shift_and_flip_is_a_crop_of_the_padded_image_or_its_mirror():
    x = torch.from_numpy(images(16, 2, 5, 4))
    y = shift_and_flip(x, stream(4, 0), pad=1)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert torch.equal(y, shift_and_flip(x, stream(4, 0), pad=1))
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    mirrored = padded.flip(3)
    found = set()
    for n in range(16):
        for source, image in (("plain", padded), ("mirror", mirrored)):
            for i in range(3):
                for j in range(3):
                    if torch.equal(y[n], image[n, :, i : i + 5, j : j + 4]):
                        found.add((n, source))
    assert {n for n, _ in found} == set(range(16))
    assert {source for _, source in found} == {"plain", "mirror"}
    still = shift_and_flip(x, stream(4, 0), pad=0, flip=False)
    assert torch.equal(still, x)

"""Loss, batches and laws, by hand and by invariance."""

import numpy as np
import pytest
import torch

from methods.dynamics.sgd_noise.hinge import crossing, drawn, fitted, hinge, plane, shuffled


def test_the_loss_is_exactly_flat_where_every_margin_is_reached():
    f = torch.tensor([0.5, -0.5, 0.25], requires_grad=True)
    y = torch.tensor([1.0, -1.0, 1.0])
    alpha = torch.tensor(4.0)
    loss = hinge(f, y, alpha)
    assert float(loss) == 0
    assert torch.autograd.grad(loss, f)[0][:2].tolist() == [0, 0]
    assert bool(fitted(f.detach(), y, alpha))
    assert not bool(fitted(f.detach() - 1e-6, y, alpha))


def test_the_loss_is_the_hinge_divided_by_alpha():
    f, y = torch.randn(50), torch.randn(50).sign()
    for alpha in (0.1, 1.0, 30.0):
        expected = ((1 - alpha * y * f).clamp(min=0) / alpha).mean()
        torch.testing.assert_close(hinge(f, y, torch.tensor(alpha)), expected)


def test_batches_are_uniform_and_do_not_depend_on_who_is_there():
    seeds, sizes = torch.arange(40) * 7919, torch.full((40,), 10)
    rows = torch.cat([drawn(seeds, update, 5, sizes) for update in range(400)], 1)
    counts = torch.bincount(rows.flatten(), minlength=10).double()
    expected = rows.numel() / 10
    # chi-square with 9 degrees of freedom lies below 27.9 with probability .999
    assert float(((counts - expected) ** 2 / expected).sum()) < 27.9
    part = drawn(seeds[3:5], 17, 5, sizes[3:5])
    assert torch.equal(part, drawn(seeds, 17, 5, sizes)[3:5])
    assert not torch.equal(drawn(seeds, 1, 5, sizes), drawn(seeds, 2, 5, sizes))


@pytest.mark.parametrize("batch", [1, 3, 4, 8])
def test_without_replacement_every_image_comes_once_in_an_epoch(batch):
    seeds, sizes = torch.tensor([1, 2, 3]), torch.tensor([8, 12, 12])
    rows = torch.cat(
        [shuffled(seeds, update, batch, sizes, 12) for update in range(48 // batch)], 1
    )
    for member, size in enumerate(sizes.tolist()):
        for epoch in rows[member].view(-1, size) if 48 % size == 0 else []:
            assert sorted(epoch.tolist()) == list(range(size))
    assert not torch.equal(rows[1, :12], rows[1, 12:24])
    assert not torch.equal(rows[1], rows[2])


def test_where_the_weights_move_twice_as_far():
    t = np.array([0.1, 1.0, 10.0])
    assert crossing(t, np.array([1.0, 1.0, 4.0]), 2.0) == pytest.approx(10**0.5)
    assert crossing(t, np.array([1.0, 2.0, 4.0]), 2.0) == pytest.approx(1.0)
    assert np.isnan(crossing(t, np.array([1.0, 1.1, 1.2]), 2.0))
    assert np.isnan(crossing(t, np.array([np.nan, 2.0, 9.0]), 2.0))
    assert crossing(t, np.array([1.0, 3.0, np.nan]), 2.0) == pytest.approx(
        10 ** (np.log(2) / np.log(3) - 1)
    )


def test_the_plane_of_exponents():
    rng = np.random.default_rng(0)
    t, p = rng.uniform(0.1, 2, 40), rng.uniform(100, 1000, 40)
    assert plane(t, p, 3 * t**0.9 * p**0.4) == pytest.approx((0.9, 0.4))

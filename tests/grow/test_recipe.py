"""Rates, cut-outs and the cost of an update."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from methods.data.kinds import Images
from methods.grow.mixture import Mixture
from methods.grow.params import FromScratch, MixtureGrowth
from methods.grow.recipe import cut_out, flops_of_update, images_of, rate
from methods.models.networks.wide_residual import WideResidual
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.grow.images import digits


def test_rates_rise_and_fall_in_decaying_cosines():
    recipe = MixtureGrowth(learning_rate=0.1, final_rate=0.001, warm_up=1, warm_up_rate=0.01)
    found = [rate(step, 80, recipe, 4, cycles=2, decay=0.5) for step in range(80)]
    np.testing.assert_allclose(found[:4], [0.01, 0.0325, 0.055, 0.0775])
    assert found[4] == pytest.approx(0.001 + 0.099 / 2 * (1 + np.cos(np.pi * 0.1)))
    assert found[20] == pytest.approx(0.001 + 0.099 / 2)
    assert found[40] == pytest.approx(0.05)
    assert found[60] == pytest.approx(0.001 + 0.049 / 2)
    assert all(a > b for a, b in pairwise(found[4:40]))
    below = [rate(step, 80, MixtureGrowth(warm_up=0), 4, cycles=4, decay=0.5) for step in range(80)]
    assert below[40:] == pytest.approx([3e-5] * 40)
    assert min(below) == pytest.approx(3e-5)
    flat = FromScratch(learning_rate=0.1, warm_up=0)
    assert rate(0, 10, flat, 1) == pytest.approx(0.1)


def test_a_cut_out_is_a_square_about_a_centre_inside_the_image():
    x = torch.ones(64, 3, 12, 10)
    cut = cut_out(x, 4, torch.Generator().manual_seed(0))
    assert cut.shape == x.shape
    holes = (cut == 0).all(1)
    assert torch.equal(holes, (cut == 0).any(1))
    sizes = holes.sum((1, 2))
    assert int(sizes.max()) == 16
    assert int(sizes.min()) >= 4
    assert len(set(sizes.tolist())) > 2
    for hole in holes:
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert int(hole.sum()) == int(rows * columns)
    assert torch.equal(cut, cut_out(x, 4, torch.Generator().manual_seed(0)))


def test_an_update_costs_three_forward_passes_and_leaves_the_network_alone():
    network = WideResidual(1, 10, 4, 1, 4).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    one, ten = (flops_of_update(network, n, (1, 8, 8)) for n in (1, 10))
    assert ten == 10 * one
    convolutions = 64 * 9 * (1 * 4 + 4 * 4 * 2)
    convolutions += 16 * (9 * (4 * 8 + 8 * 8) + 4 * 8) + 4 * (9 * (8 * 16 + 16 * 16) + 8 * 16)
    assert one == 6 * (convolutions + 16 * 10)
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_mixing_is_paid_once_for_a_batch():
    made = Mixture(WideResidual(1, 10, 4, 1, 4), torch.randn(2, 1, 8, 8))
    one, two, three = (flops_of_update(made, n, (1, 8, 8)) for n in (1, 2, 3))
    images = two - one
    mixing = sum(bank.sets[0].numel() for bank in made.banks.values())
    assert three - two == images
    assert one - images == 6 * mixing


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"train": [object()]}, "train needs images"),
        ({"train": [digits(rows=slice(0, 1))]}, "too few"),
        (
            {
                "train": [digits()],
                "validation": [Images("other", np.zeros((3, 9, 9), np.uint8), np.zeros(3), ["a"])],
            },
            "other sizes or classes",
        ),
    ],
)
def test_wrong_data_get_one_clear_error(data, reason):
    with pytest.raises(RetrofitError, match=reason):
        images_of(data, FromScratch(validation=0), Context())

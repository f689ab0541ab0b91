"""Samplers: points of the simplex, the published draws, and gradients where they must be."""

import numpy as np
import pytest
import torch

from methods.search.samplers import (
    SAMPLERS,
    concentration,
    dirichlet,
    gumbel,
    sampler,
    softmax,
    sparsemax,
    temperature,
)
from methods.study.errors import RetrofitError
from tests.search.golden import GOLDEN, close, golden, random


def test_they_draw_what_the_published_code_draws():
    alpha = golden("smp_alpha")
    close(softmax(alpha), golden("darts_softmax"), 1e-6)
    close(sparsemax(alpha), golden("darts_sparsemax"), 1e-6)
    close(concentration(alpha), golden("drnas_concentration"), 1e-6)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        close(dirichlet(alpha), golden("drnas_sample_seed7"), 1e-6)
        torch.manual_seed(7)
        close(gumbel(alpha, float(golden("gdas_tau")[0])), golden("gdas_hard_seed7"), 1e-6)


def test_the_temperature_falls_as_published():
    found = [temperature(epoch, 100) for epoch in range(100)]
    np.testing.assert_allclose(found, GOLDEN["gdas_tau_schedule"], rtol=1e-5)
    assert temperature(0, 1) == 10.0


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_gives_a_point_of_the_simplex(name):
    drawn = sampler(name, 1, 4)
    for seed in range(20):
        alpha = 3 * random(5, seed=seed)
        alpha.requires_grad_()
        a = drawn.draw(alpha)
        assert float(a.detach().min()) >= 0
        assert float(a.detach().sum()) == pytest.approx(1, abs=1e-5)
        if drawn.discrete:
            assert sorted(a.detach().round(decimals=6).tolist()) == [0, 0, 0, 0, 1]
        if drawn.learned:
            (a * torch.arange(5.0)).sum().backward()
            assert torch.isfinite(alpha.grad).all()
            # A single point of sparsemax's support has no gradient; every other draw has.
            assert name == "darts_sparsemax" or float(alpha.grad.abs().sum()) > 0
        else:
            assert not a.requires_grad


def test_sparsemax_is_the_projection_and_takes_one_vector():
    """No other point of the simplex is nearer (a grid of three options), gradients are projections."""
    for seed in range(5):
        alpha = random(3, seed=seed)
        found = sparsemax(alpha)
        grid = torch.linspace(0, 1, 41)
        points = torch.stack([torch.tensor([x, y, 1 - x - y]) for x in grid for y in grid])
        points = points[points[:, 2] >= 0]
        best = (points - alpha).square().sum(1).min()
        assert float((found - alpha).square().sum()) <= float(best) + 1e-6
    alpha = torch.tensor([0.5, 0.4, -3.0], requires_grad=True)
    (sparsemax(alpha) * torch.tensor([1.0, 3.0, 9.0])).sum().backward()
    close(alpha.grad, torch.tensor([-1.0, 1.0, 0.0]))


def test_dirichlet_survives_parameters_far_below_zero():
    alpha = torch.full((4,), -60.0, requires_grad=True)
    a = dirichlet(alpha)
    assert torch.isfinite(a).all()


def test_an_unknown_sampler_is_named_with_its_neighbour():
    with pytest.raises(RetrofitError, match="did you mean 'drnas'"):
        sampler("drnass")

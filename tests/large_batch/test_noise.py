"""Multiplicative noise: the mean gradient stays, its covariance is the small batch's."""

import pytest
import torch

from methods.fit.batches import stream
from methods.large_batch.noise import matching_variance, sample_weights, weighted_mean


def test_the_matching_variance_is_the_ratio_less_one_and_never_negative():
    assert matching_variance(512, 32) == 15
    assert matching_variance(32, 32) == 0
    assert matching_variance(16, 32) == 0


def test_weights_have_mean_one_and_the_asked_variance():
    weights = sample_weights(200_000, 4.0, stream(0, "noise"))
    assert weights.mean().item() == pytest.approx(1, abs=4 * 2 / 200_000**0.5)
    assert weights.var().item() == pytest.approx(4, rel=0.02)
    assert torch.equal(sample_weights(5, 0.0, stream(0)), torch.ones(5))


def test_noisy_large_batches_vary_as_small_ones_do():
    """Monte Carlo over draws of centred per-sample gradients: (1 + sigma^2)/M_L = 1/M_S."""
    generator = stream(1, "gradients")
    large, small, draws = 64, 8, 40_000
    gradients = torch.randn(draws, large, generator=generator)
    weights = sample_weights(draws * large, matching_variance(large, small), generator)
    noisy = (weights.view(draws, large) * gradients).mean(1)
    plain = gradients[:, :small].mean(1)
    assert noisy.var().item() == pytest.approx(1 / small, rel=0.04)
    assert plain.var().item() == pytest.approx(1 / small, rel=0.04)
    shifted = (weights.view(draws, large) * (gradients + 3)).mean(1)
    error = shifted.std().item() / draws**0.5
    assert shifted.mean().item() == pytest.approx(3, abs=4 * error)


def test_weighting_losses_weights_gradients():
    parameter = torch.tensor([1.0, 2.0], requires_grad=True)
    inputs, z = torch.tensor([[1.0, 0], [0, 1], [2, 1]]), torch.tensor([0.5, -1.0, 3.0])
    (gradient,) = torch.autograd.grad(weighted_mean((inputs @ parameter) ** 2, z), parameter)
    single = torch.stack(
        [torch.autograd.grad((row @ parameter) ** 2, parameter)[0] for row in inputs]
    )
    torch.testing.assert_close(gradient, (z[:, None] * single).mean(0))
    assert weighted_mean(torch.tensor([1.0, 3.0]), None) == 2

"""Losses from second moments equal losses from the inputs themselves."""

import pytest
import torch

from methods.quantize.output_error import (
    diagonal_blocks,
    group_gram,
    group_output_error,
    linear_output_loss,
    second_moment,
)

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(50, 96, generator=GENERATOR)
DELTA = torch.randn(20, 96, generator=GENERATOR)


@pytest.mark.parametrize("width", [96, 384, 500])
def test_second_moment_in_strips(width):
    x = torch.randn(40, width, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(second_moment(x), x.T @ x)
    torch.testing.assert_close(second_moment(x), second_moment(x).T)
    close = second_moment(x.bfloat16())
    exact = x.bfloat16().double().T @ x.bfloat16().double()
    assert (close - exact).norm() < 3e-3 * exact.norm()


def test_linear_output_loss_is_the_mean_squared_output_error():
    direct = (X @ DELTA.T).square().mean()
    torch.testing.assert_close(linear_output_loss(DELTA, second_moment(X) / len(X)), direct)


@pytest.mark.parametrize("group_size", [32, -1])
def test_group_errors(group_size):
    g = 96 if group_size == -1 else group_size
    parts = X.view(50, -1, g)
    direct = torch.einsum("ngc,ogc->nog", parts, DELTA.view(20, -1, g)).square().mean(0)
    gram = group_gram(X, group_size)
    torch.testing.assert_close(
        group_output_error(DELTA.view(20, -1, g), gram), direct, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(diagonal_blocks(X.T @ X / 50, group_size), gram)

"""Wide residual networks: their published sizes, and that they learn."""

import pytest
import torch

from methods.measure.cost import count_parameters
from methods.models.networks.wide_residual import WideResidual


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # arXiv 1605.07146, table 4 (36.5 M), and what the code of arXiv 2311.04251 counts without
        # the inner norms, less the 100 biases of its classifier.
        ({"inner_norm": True}, 36_536_784),
        ({"inner_norm": False}, 36_527_924 - 100),
    ],
)
def test_wrn_28_10_has_its_published_size(arguments, expected):
    with torch.device("meta"):
        network = WideResidual(3, 100, **arguments)
    assert count_parameters(network) == expected
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 1 + 24 + 3


def test_shapes_and_blocks_compose_to_the_forward_pass():
    network = WideResidual(3, 7, width=4, blocks=2, stem=6, stem_stride=2).eval()
    x = torch.randn(2, 3, 16, 16)
    y = x
    for _, block in network.blocks():
        y = block(y)
    assert torch.equal(network(x), y)
    assert y.shape == (2, 7)
    assert network.stages(network.stem(x)).shape == (2, 16, 2, 2)


def test_a_shortcut_is_a_convolution_only_where_shapes_change():
    network = WideResidual(1, 10, width=4, blocks=2, stem=4)
    found = [block.shortcut is not None for block in network.stages]
    assert found == [False, False, True, False, True, False]


def test_every_weight_is_trained():
    network = WideResidual(1, 10, width=4, blocks=1, stem=4)
    network(torch.randn(8, 1, 8, 8)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())

"""Every architecture says which modules it is a chain of, and the chain is its forward pass."""

import pytest
import torch
from torch import nn

from methods.models.networks.network import ARCHITECTURES, build

CASES = {
    "fully_connected": ({"inputs": 27, "classes": 4, "width": 6, "depth": 2}, (3, 3, 3)),
    "residual": ({"channels": 3, "classes": 4, "width": 4, "blocks": 2}, (3, 12, 12)),
    "resnet": ({"channels": 3, "classes": 4, "width": 4, "blocks": [2, 1]}, (3, 12, 12)),
    "wide_residual": (
        {"channels": 3, "classes": 4, "width": 4, "blocks": 1, "stem": 4},
        (3, 12, 12),
    ),
    "vit": (
        {"channels": 3, "classes": 4, "image": 12, "width": 6, "depth": 2, "heads": 2},
        (3, 12, 12),
    ),
    "efficientnet_lite": ({"channels": 3, "classes": 4}, (3, 32, 32)),
}


def test_every_architecture_is_tested_here():
    assert set(CASES) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", CASES)
def test_the_blocks_composed_are_the_forward_pass_bit_for_bit(architecture):
    arguments, shape = CASES[architecture]
    module = build(architecture, arguments, seed=1)
    module(torch.randn(8, *shape))  # so that running statistics are not the trivial ones
    module.eval()
    images = torch.randn(5, *shape)
    expected = module(images)
    x = images
    for name, block in module.blocks():
        assert module.get_submodule(name) is block
        x = block(x)
        assert isinstance(x, torch.Tensor)
    assert torch.equal(x, expected)
    assert x.shape == (5, 4)


@pytest.mark.parametrize("architecture", CASES)
def test_the_blocks_hold_every_parameter_once(architecture):
    module = build(architecture, CASES[architecture][0], seed=1)
    inside = [id(p) for _, block in module.blocks() for p in block.parameters()]
    assert sorted(inside) == sorted(id(p) for p in module.parameters())


def test_names_and_bits_of_the_older_networks_are_what_they_were():
    """Committed results and saved networks hang on both."""
    flat = build("fully_connected", CASES["fully_connected"][0], seed=1).eval()
    layers = nn.Sequential(*flat.features, flat.head)
    x = torch.randn(5, 3, 3, 3)
    assert torch.equal(flat(x), layers(x.flatten(1)))
    assert [n for n in flat.state_dict() if n.endswith("weight")] == [
        "features.0.weight", "features.1.weight", "features.3.weight", "features.4.weight", "head.weight",
    ]  # fmt: skip
    residual = build("residual", CASES["residual"][0], seed=1).eval()
    x = torch.randn(5, 3, 12, 12)
    pooled = residual.stages(residual.stem(x)).mean((2, 3))
    assert torch.equal(
        residual(x), nn.functional.linear(pooled, residual.head.weight, residual.head.bias)
    )
    names = set(residual.state_dict())
    assert {"stem.0.weight", "stages.2.shortcut.1.bias", "head.weight", "head.bias"} <= names

"""Networks of the asked sizes, and the payload's way to disk and back."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from methods.models.networks.network import Network, arguments, build, load
from methods.models.networks.params import (
    FullyConnectedSizes,
    ResidualSizes,
    VisionTransformerSizes,
)
from methods.study.errors import RetrofitError

RNG = np.random.default_rng(0)


def network(sizes, image=(12, 12), classes=4):
    chosen = sizes.model_dump()
    built = arguments(chosen, image, classes)
    module = build(chosen["architecture"], built, seed=3)
    channels = image[2] if len(image) == 3 else 1
    return Network(
        module, chosen["architecture"], built, [0.3] * channels, [0.2] * channels, list("abcd")
    )


def test_the_default_fully_connected_network_is_f1():
    built = arguments(FullyConnectedSizes().model_dump(), (28, 28), 10)
    module = build("fully_connected", built, seed=0)
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    shapes = [(m.in_features, m.out_features) for m in linears]
    assert shapes == [(784, 512), *[(512, 512)] * 4, (512, 10)]
    assert sum(isinstance(m, nn.BatchNorm1d) for m in module.modules()) == 5


def test_the_default_residual_network_has_44_layers_and_its_stages_halve_the_image():
    built = arguments(ResidualSizes().model_dump(), (32, 32, 3), 10)
    module = build("residual", built, seed=0)
    layers = [
        m for n, m in module.named_modules()
        if isinstance(m, nn.Conv2d | nn.Linear) and "shortcut" not in n
    ]  # fmt: skip
    assert len(layers) == 44
    features = module.stages(module.stem(torch.zeros(2, 3, 32, 32)))
    assert features.shape == (2, 64, 8, 8)


@pytest.mark.parametrize("image", [(12, 12), (12, 12, 3)])
@pytest.mark.parametrize(
    "sizes",
    [
        FullyConnectedSizes(width=8, depth=2),
        ResidualSizes(width=4, blocks=1, stem_stride=2),
        VisionTransformerSizes(width=6, depth=2, heads=2),
    ],
    ids=lambda sizes: sizes.architecture,
)
def test_a_saved_network_comes_back_with_the_same_logits(tmp_path, sizes, image):
    made = network(sizes, image)
    x = RNG.integers(0, 256, (7, *image), dtype=np.uint8)
    made.module.to(memory_format=torch.channels_last)
    made.module.train()
    made.module(torch.randn(5, image[2] if len(image) == 3 else 1, 12, 12))
    before = made.logits(x, batch_size=3)
    assert made.module.training
    made.notes["rate"] = 0.1
    made.save(tmp_path)
    back = load(tmp_path)
    assert not back.module.training
    assert back.notes == {"rate": 0.1}
    assert back.classes == list("abcd")
    torch.testing.assert_close(back.logits(x), before, atol=1e-6, rtol=1e-6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_the_seed_makes_the_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, two = (network(FullyConnectedSizes(width=8)).module for _ in range(2))
    assert torch.equal(one.head.weight, two.head.weight)
    assert torch.equal(before, torch.get_rng_state())
    other = build("fully_connected", {"inputs": 144, "classes": 4, "width": 8}, seed=4)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_bad_directories_and_names_are_refused(tmp_path):
    with pytest.raises(RetrofitError, match=r"allowed: .*fully_connected.*residual"):
        build("residul", {}, 0)
    with pytest.raises(RetrofitError, match="no usable network"):
        load(tmp_path)
    network(FullyConnectedSizes(width=8)).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["arguments"]["width"] = 9
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RetrofitError, match=r"model\.safetensors does not fit the network"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"truncated")
    with pytest.raises(RetrofitError, match="no usable network"):
        load(tmp_path)

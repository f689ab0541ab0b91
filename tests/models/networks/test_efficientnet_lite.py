"""EfficientNet-Lite0 against the PyTorch package that its published weights were made for."""

import io
import pickle

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from methods.data import sources
from methods.data.kinds import Images
from methods.models.networks import published
from methods.models.networks.efficientnet_lite import EfficientNetLite, SameConv2d, renamed
from methods.models.networks.network import load
from methods.models.params import ModelDeclaration
from methods.study import strict_yaml
from methods.study.errors import RetrofitError

GOLDEN = np.load("tests/golden/networks/efficientnet_lite.npz")


def declaration():
    return ModelDeclaration.model_validate(
        strict_yaml.load("configs/models/efficientnet-lite0.yaml").value
    )


def theirs():
    """A state dict under the package's names, its numbers drawn in the order of the names."""
    ours = EfficientNetLite().state_dict()
    by_their_name = {}
    for name in GOLDEN["names"].tolist():
        [here] = renamed({name: torch.zeros(1)})
        by_their_name[name] = ours[here]
    draw, state = np.random.RandomState(7), {}
    for name in sorted(by_their_name):
        like = by_their_name[name]
        if not like.is_floating_point():
            state[name] = like
            continue
        values = draw.standard_normal(tuple(like.shape))
        if name.endswith("running_var"):
            values = np.abs(values) + 0.5
        elif like.dim() > 1:
            values = values / np.sqrt(max(1, np.prod(like.shape[1:]))) * 1.5
        else:
            values = 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
        state[name] = torch.from_numpy(values.astype(np.float32))
    return state


def noise(seed, *shape):
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def test_every_published_name_has_one_name_here():
    assert len(GOLDEN["names"]) == 296
    ours = set(renamed(dict.fromkeys(GOLDEN["names"].tolist(), torch.zeros(1))))
    assert ours == set(EfficientNetLite().state_dict())


@torch.no_grad()
def test_the_logits_are_the_packages():
    network = EfficientNetLite().eval()
    network.load_state_dict(renamed(theirs()))
    found = network(noise(1, 2, 3, 64, 64))
    assert float((found - torch.from_numpy(GOLDEN["filled"])).abs().max()) < 1e-4


@torch.no_grad()
def test_same_padding_puts_the_odd_row_at_the_bottom_right():
    layer = SameConv2d(1, 1, 3, stride=2)
    torch.nn.init.ones_(layer.weight)
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert layer(image).flatten().tolist() == [45.0, 39.0, 66.0, 50.0]
    assert layer(torch.ones(1, 1, 5, 5)).shape == (1, 1, 3, 3)


@torch.no_grad()
def test_the_published_weights_give_the_packages_logits(tmp_path):
    """Runs where the weights were fetched before (`base: efficientnet-lite0`)."""
    known = declaration()
    [file] = known.files.values()
    path = sources.cache() / file.sha256
    if not path.is_file():
        pytest.skip("the published weights are not in the cache")
    network = published.assemble("efficientnet-lite0", known.config, path)
    found = network.module(noise(2, 1, 3, 224, 224))
    assert float((found - torch.from_numpy(GOLDEN["published"])).abs().max()) < 1e-4
    assert network.classes[:2] == ["0", "1"]
    assert len(network.classes) == 1000
    grey = np.full((1, 224, 224, 3), 127, dtype=np.uint8)
    expected = network.module(torch.zeros(1, 3, 224, 224))  # (127 - 127) / 128
    torch.testing.assert_close(network.logits(grey), expected, atol=1e-4, rtol=1e-4)
    network.save(tmp_path)
    torch.testing.assert_close(load(tmp_path).logits(grey), network.logits(grey), atol=0, rtol=0)


def test_other_files_are_refused_and_no_code_of_theirs_runs(tmp_path):
    config = declaration().config

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-here"), "w"))

    path = tmp_path / "weights.pth"
    torch.save({"_fc.weight": Evil()}, path)
    with pytest.raises(RetrofitError, match="no file of tensors"):
        published.assemble("x", config, path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(RetrofitError, match="no file of tensors"):
        published.assemble("x", config, path)
    assert not (tmp_path / "was-here").exists()
    path.write_bytes(b"")
    with pytest.raises(RetrofitError, match="no file of tensors"):
        published.assemble("x", config, path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(RetrofitError, match="no state dict"):
        published.assemble("x", config, path)
    body = io.BytesIO()
    torch.save({k: v for k, v in theirs().items() if k != "_fc.bias"}, body)
    path.write_bytes(body.getvalue())
    with pytest.raises(RetrofitError, match=r"do not fit.*head\.classifier\.bias"):
        published.assemble("x", config, path)
    with pytest.raises(RetrofitError, match=r"no published weights.*'resnet'.*efficientnet_lite"):
        published.assemble("x", config | {"architecture": "resnet"}, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"architecture": "efficientnet_lite"}}, "lacks arguments, mean, std"),
        (
            {
                "files": {"w.pth": {}},
                "sources": [{"kind": "path", "files": {"w.pth": "/somewhere/w.pth"}}],
            },
            "need a sha256 wherever they lie",
        ),
        (
            {
                "files": {"a.pth": {"sha256": "0" * 64}, "b.pth": {"sha256": "0" * 64}},
                "sources": [{"kind": "path", "files": {"a.pth": "a", "b.pth": "b"}}],
            },
            "comes from one file",
        ),
    ],
    ids=["config", "checksum", "two files"],
)
def test_a_declaration_that_cannot_work_is_refused(change, message):
    whole = strict_yaml.load("configs/models/efficientnet-lite0.yaml").value
    with pytest.raises(ValidationError, match=message):
        ModelDeclaration.model_validate(whole | change)


def test_images_of_other_kinds_fit_the_network():
    """Smaller images and other numbers of classes, as a study that fine-tunes it would have."""
    images = Images("x", np.zeros((2, 32, 40, 1), np.uint8), np.zeros(2, np.int64), ["a", "b"])
    network = EfficientNetLite(channels=1, classes=2).eval()
    assert network(torch.from_numpy(images.x).float().permute(0, 3, 1, 2)).shape == (2, 2)

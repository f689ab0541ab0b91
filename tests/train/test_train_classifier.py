"""A small classifier trained from scratch: it learns, resumes to the same bits, and refuses wrong data."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from methods.data.kinds import Table
from methods.models.networks.network import load
from methods.run.context import Context
from methods.study.errors import RetrofitError
from methods.study.registry import find
from methods.train.params import TrainClassifier
from methods.train.train_classifier import apply
from tests.fit.killed import resumed
from tests.fit.patches import patches

VIT = {"architecture": "vit", "patch": 4, "width": 16, "depth": 1, "heads": 2}


DATA = {"train": [patches("blobs.train", 410, 0, contrast=120)]}


def settings(**changes):
    values = {"network": VIT, "batch": 20, "epochs": 4, "learning_rate": 1e-2}
    return TrainClassifier.model_validate({**values, **changes})


def run(params, data=DATA, seed=0):
    context = Context(seed=seed)
    return apply(None, data, params, context), context.history


@pytest.mark.parametrize(
    ("network", "least"),
    [
        (VIT, 0.6),  # the class token first has to learn where to look
        (VIT | {"pool": "mean"}, 0.9),
        ({"architecture": "fully_connected", "width": 16, "depth": 1}, 0.9),
        ({"architecture": "residual", "width": 4, "blocks": 1}, 0.9),
    ],
    ids=["vit", "vit mean", "fully connected", "residual"],
)
def test_it_learns_and_what_it_saves_is_what_it_is(tmp_path, network, least):
    test = patches("blobs.test", 200, 1, contrast=120)
    found, history = run(settings(network=network, epochs=10), DATA | {"validation": [test]})
    assert found.metrics["updates"].value == 10 * 20
    assert found.metrics["validation_accuracy"].value > least
    assert found.metrics["validation_accuracy"].n == 200
    curve = [row for row in history if "validation_accuracy" in row]
    assert [row["epoch"] for row in curve] == [*range(1, 11)]
    assert curve[-1]["validation_accuracy"] == found.metrics["validation_accuracy"].value
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    assert not found.module.training
    assert not any(p.requires_grad for p in found.module.parameters())
    found.save(tmp_path)
    assert torch.equal(load(tmp_path).logits(test.x), found.logits(test.x))


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    params = settings(validation=0.2, augment=True, label_smoothing=0.1)
    expected, history = run(params)
    found, again = resumed(lambda c: apply(None, DATA, params, c), 37, tmp_path, monkeypatch)
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(tensor, found.module.state_dict()[name]), name
    assert again == history
    assert found.metrics == expected.metrics


def test_seeds_decide_and_held_out_images_are_not_trained_on():
    short = settings(epochs=1)
    one, two, other = (run(short, seed=s)[0] for s in (0, 0, 1))
    weight = "layers.0.mlp.0.weight"
    assert torch.equal(one.module.state_dict()[weight], two.module.state_dict()[weight])
    assert not torch.equal(one.module.state_dict()[weight], other.module.state_dict()[weight])
    assert "validation_accuracy" not in one.metrics
    held, _ = run(settings(epochs=1, validation=0.2))
    assert held.metrics["validation_accuracy"].n == 82
    assert held.metrics["updates"].value == 328 // 20


def test_a_limit_and_a_batch_larger_than_the_data():
    train = patches("blobs.train", 400, 0, contrast=120)
    object.__setattr__(train, "options", {"limit": 50})
    assert run(settings(), {"train": [train]})[0].metrics["updates"].value == 4 * 2
    assert run(settings(batch=64), {"train": [train]})[0].metrics["updates"].value == 4


def test_wrong_data_and_sizes_are_refused():
    table = Table("soup.train", np.zeros((3, 2)), np.zeros(3, np.int64), ["a", "b"], ["c"])
    with pytest.raises(RetrofitError, match=r"train needs images, and soup\.train has none"):
        run(settings(), {"train": [table]})
    with pytest.raises(RetrofitError, match=r"validation needs images, and soup\.train has none"):
        run(settings(), DATA | {"validation": [table]})
    larger = patches("larger.test", 10, 0, side=12, contrast=120)
    with pytest.raises(RetrofitError, match=r"larger\.test has other sizes .* than blobs\.train"):
        run(settings(), DATA | {"validation": [larger]})
    with pytest.raises(RetrofitError, match="patch 3 does not divide an image of 8 pixels"):
        run(settings(network=VIT | {"patch": 3}))
    with pytest.raises(RetrofitError, match="the loss is nan"):
        run(settings(learning_rate=1e30, clip_norm=None))


def test_a_study_that_asks_for_the_impossible_is_refused_early():
    for wrong in ({"epochs": 0}, {"batch": 1}, {"warm_up": 1.0}, {"validation": 1.0}, {"lr": 1.0}):
        with pytest.raises(ValidationError):
            settings(**wrong)
    entry = find("method", "train_classifier")
    assert entry.load() is apply
    assert not entry.params.needs_base

"""The whole method on small images: learning, costs, artifacts, resuming, and settings refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from methods.data.kinds import Table
from methods.models.networks.params import (
    FullyConnectedSizes,
    ResidualSizes,
    VisionTransformerSizes,
)
from methods.prune.layers import described
from methods.prune.network import load
from methods.prune.params import ResNetSizes, SparseIFT, StepTime
from methods.prune.step_time import measure
from methods.prune.train import apply
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.fit.killed import resumed
from tests.fit.patches import patches

DATA = {"train": [patches("p.train", 320, 0)], "validation": [patches("p.validation", 200, 1)]}
SMALL = ResidualSizes(width=4, blocks=1)


def settings(**changes):
    values = {"network": SMALL, "epochs": 3, "batch": 16, "schedule": "cosine", "milestones": []}
    values |= {"learning_rate": 0.05, "augment": False, "every": 5}
    return SparseIFT(**(values | changes))


def run(params, data=DATA, seed=0):
    context = Context(seed=seed)
    return apply(None, data, params, context), context.history


def metrics(network):
    return {name: metric.value for name, metric in network.metrics.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "dense", "sparsity": 0.0},
        {"family": "wide", "update": "static"},
        {"family": "wide", "update": "set", "distribution": "erk"},
        {"family": "wide", "update": "gradual"},
        {"family": "parallel"},
        {"family": "factorized"},
        {"family": "doped", "sparsity": 0.5},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_every_family_learns_at_equal_flops_and_loads_to_the_same_bits(changes, tmp_path):
    network, history = run(settings(**changes))
    found = metrics(network)
    assert found["validation_accuracy"] > 0.8
    assert found["flops/ratio"] == pytest.approx(1, abs=1e-3)
    assert found["updates"] == 60
    curve = [row["validation_accuracy"] for row in history if "validation_accuracy" in row]
    assert len(curve) == 3
    assert curve[-1] == found["validation_accuracy"]
    assert not any("mask" in key for key in network.module.state_dict())
    plan = {row["name"]: row for row in network.notes["sparse_ift"]["layers"]}
    if changes["family"] == "wide":
        layer = network.module.stages[1].conv2
        assert int(torch.count_nonzero(layer.weight)) == plan["stages.1.conv2"]["nonzeros"]
        assert found["flops/kernels"] > 3 * found["flops"]
    assert bool(described(network.module)) == (
        changes["family"] in ("parallel", "factorized", "doped")
    )
    network.save(tmp_path)
    again = load(tmp_path)
    x = DATA["validation"][0].x
    assert torch.equal(again.logits(x), network.logits(x))
    assert again.notes == network.notes


@pytest.mark.parametrize("update", ["set", "rigl", "gradual"])
def test_a_killed_run_resumes_to_the_same_bits(update, tmp_path, monkeypatch):
    params = settings(update=update, every=4, augment=True)
    expected, history = run(params)
    found, again = resumed(lambda c: apply(None, DATA, params, c), 22, tmp_path, monkeypatch)
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(tensor, found.module.state_dict()[name]), name
    assert again == history
    assert found.metrics == expected.metrics


def test_equal_training_flops_shorten_what_costs_more():
    ratios = {}
    for update in ("static", "rigl", "gradual"):
        found = metrics(run(settings(update=update, match="training_flops"))[0])
        ratios[update] = found["updates"]
        assert 0.9 < found["training_flops/ratio"] <= 1
    assert ratios["static"] == 60
    assert ratios["gradual"] < ratios["rigl"] < 60
    longer = metrics(run(settings(update="gradual"))[0])
    assert longer["updates"] == 60
    assert longer["training_flops/ratio"] > 1.5


def test_seeds_and_variants_share_what_they_should():
    one, two, other = (run(settings(epochs=1), seed=s)[0].module.head.weight for s in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "network",
    [
        FullyConnectedSizes(width=64, depth=3),
        VisionTransformerSizes(width=24, depth=1, heads=2, ratio=2.0),
        ResNetSizes(width=4, blocks=[1, 1, 1]),
    ],
    ids=lambda n: n.architecture,
)
@pytest.mark.parametrize("family", ["wide", "factorized"])
def test_other_networks(network, family, tmp_path):
    trained, _ = run(settings(network=network, family=family, sparsity=0.5, epochs=1))
    assert metrics(trained)["flops/ratio"] == pytest.approx(1, abs=2e-3)
    trained.save(tmp_path)
    x = DATA["validation"][0].x
    assert torch.equal(load(tmp_path).logits(x), trained.logits(x))


def test_steps_of_the_rate_are_the_dense_networks():
    params = settings(schedule="steps", milestones=[1, 2], update="gradual", match="training_flops")
    _, history = run(params)
    rates = sorted({round(row["rate"], 6) for row in history if "rate" in row})
    assert rates == pytest.approx([0.002, 0.01, 0.05])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 0.7}, "nearest allowed are 0.666667 and 0.75"),
        ({"family": "dense"}, "family 'dense' has no sparsity, found 0.75"),
        ({"begin": 0.9, "end": 0.5}, "begin 0.9 lies after end 0.5"),
        ({"schedule": "steps", "milestones": [4]}, "must ascend and lie between 0 and epochs"),
        ({"sparsitty": 0.5}, "unknown key 'sparsitty'; did you mean 'sparsity'"),
        ({"sparsity": 1.0}, "less than 1"),
        (
            {"network": FullyConnectedSizes(), "activation": "norm"},
            "layers of fully_connected are linear; allowed are default, none, relu, gelu",
        ),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_wrong_settings_are_refused_when_planning(changes, message):
    with pytest.raises(ValidationError, match=message):
        settings(**changes)


def test_settings_that_only_the_network_can_refuse():
    with pytest.raises(RetrofitError, match=r"'head' is no layer|head is the last layer"):
        run(settings(only=["head"]))
    with pytest.raises(RetrofitError, match=r"did you mean 'stages\.0\.conv1'"):
        run(settings(exempt=["stage.0.conv1"]))
    table = Table("soup.train", np.zeros((3, 2)), np.zeros(3, np.int64), ["a", "b"], ["c"])
    with pytest.raises(RetrofitError, match=r"needs images, and soup\.train has none"):
        run(settings(), {"train": [table]})
    assert metrics(run(settings(sparsity=0.7, resolve=True, epochs=1))[0])["flops/ratio"] <= 1


def test_artifacts_that_are_damaged(tmp_path):
    network, _ = run(settings(family="doped", epochs=1))
    network.save(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"doped"', '"dopped"'))
    with pytest.raises(RetrofitError, match="no usable network"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"width": 4', '"width": 5'))
    with pytest.raises(RetrofitError, match="does not fit"):
        load(tmp_path)
    with pytest.raises(RetrofitError, match="no usable network"):
        load(Path(tmp_path / "missing"))


def test_the_clock_measures_without_changing_the_network():
    network, _ = run(settings(epochs=1))
    before = {name: t.clone() for name, t in network.module.state_dict().items()}
    found = measure(network, {"test": DATA["validation"]}, StepTime(batch=8, repeats=2), Context())
    assert found["step_time"].value > found["forward_time"].value > 0
    assert all(torch.equal(before[name], t) for name, t in network.module.state_dict().items())
    with pytest.raises(RetrofitError, match="images of the role `test`"):
        measure(network, {}, StepTime(), Context())

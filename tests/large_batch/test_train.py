"""The whole method on small data: the regimes, the record it leaves, and resuming."""

import numpy as np
import pytest
import torch
from torch import nn

from methods.data.kinds import Table
from methods.large_batch.params import LargeBatch
from methods.large_batch.train import apply, regime_of
from methods.models.networks.network import load
from methods.models.networks.params import FullyConnectedSizes, ResidualSizes
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.fit.killed import resumed
from tests.fit.patches import patches

SMALL = FullyConnectedSizes(width=16, depth=2)


DATA = {"train": [patches("blobs.train", 400, 0)], "test": [patches("blobs.test", 200, 1)]}


def settings(**changes):
    values = {"network": SMALL, "small_batch": 16, "epochs": 4}
    return LargeBatch(**{**values, "milestones": [3], "curve_points": 4, **changes})


def run(params, data=DATA, seed=0):
    context = Context(seed=seed)
    return apply(None, data, params, context), context.history


def test_a_small_batch_run_learns_and_records_what_it_promises(tmp_path):
    network, history = run(settings())
    metrics = network.metrics
    assert metrics["accuracy"].value > 0.9
    assert metrics["accuracy"].n == 200
    assert metrics["validation_accuracy"].n == 40
    assert metrics["updates"].value == 4 * 23
    assert metrics["log_slope"].value > 0
    assert {"r2/log", "r2/power", "r2/sqrt", "log_margin", "power_exponent"} <= set(metrics)
    walk = [row for row in history if "distance" in row]
    assert [row["step"] for row in walk][:3] == [1, 2, 3]
    assert walk[-1]["step"] == 92
    assert sorted({row["rate"] for row in walk}) == pytest.approx([0.01, 0.1])
    assert all(("first_phase_distance" in row) == (row["step"] <= 69) for row in walk)
    curve = [row["validation_accuracy"] for row in history if "validation_accuracy" in row]
    assert len(curve) == 4
    assert curve[-1] == metrics["validation_accuracy"].value
    network.save(tmp_path)
    again = load(tmp_path)
    x = DATA["test"][0].x
    torch.testing.assert_close(again.logits(x), network.logits(x), atol=1e-5, rtol=1e-5)
    assert all(
        not isinstance(m, nn.modules.batchnorm._BatchNorm)
        or type(m) in (nn.BatchNorm1d, nn.BatchNorm2d)
        for m in network.module.modules()
    )


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not():
    one, two, other = (run(settings(epochs=1, milestones=[]), seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(one.module.head.weight, two.module.head.weight)
    assert not torch.equal(one.module.head.weight, other.module.head.weight)


def test_variants_start_from_the_same_weights_and_split():
    short = settings(epochs=1, milestones=[], batch="large", large_batch=360, learning_rate=1e-9)
    plain, ghost = run(short)[0], run(short.model_copy(update={"ghost_size": 16}))[0]
    torch.testing.assert_close(plain.module.head.weight, ghost.module.head.weight)


@pytest.mark.parametrize(
    "changes",
    [
        {"lr_rule": "sqrt"},
        {"ghost_size": 16},
        {"ghost_size": 24, "running": "averaged"},
        {"noise": "matching"},
        {"regime_adaptation": "stretch"},
        {"augment": True},
        {"clip_norm": 0.05},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_each_setting_changes_a_large_batch_run(changes):
    large = {"batch": "large", "large_batch": 128, "milestones": [3]}
    plain, changed = run(settings(**large))[0], run(settings(**large, **changes))[0]
    assert not torch.equal(plain.module.head.weight, changed.module.head.weight)


def test_matching_noise_at_the_reference_batch_is_no_noise():
    plain = run(settings(epochs=1, milestones=[]))[0]
    noisy = run(settings(epochs=1, milestones=[], noise="matching"))[0]
    assert torch.equal(plain.module.head.weight, noisy.module.head.weight)


def test_forgetting_the_momentum_shortens_the_walk_of_a_large_batch():
    large = {"batch": "large", "large_batch": 128, "milestones": [3]}
    kept, reset = (
        run(settings(**large, repo_momentum_reset=reset))[0].metrics["distance"].value
        for reset in (False, True)
    )
    assert reset < 0.8 * kept


def test_regime_adaptation_keeps_the_number_of_updates():
    small = run(settings())[0].metrics["updates"].value
    large = settings(batch="large", large_batch=128, lr_rule="sqrt")
    assert run(large)[0].metrics["updates"].value == 12
    for mode in ("stretch", "matched"):
        adapted = large.model_copy(update={"regime_adaptation": mode})
        regime = regime_of(adapted, 360)
        assert regime.rates[0] == pytest.approx(0.1 * 8**0.5)
        assert abs(run(adapted)[0].metrics["updates"].value - small) <= 8  # whole epochs of 3
    apart = settings(batch="large", large_batch=128, lr_rule="sqrt", lr_ref_batch=32)
    assert regime_of(apart, 360).rates[0] == pytest.approx(0.2)


def test_a_residual_network_trains_with_ghosts():
    sizes = ResidualSizes(width=4, blocks=1)
    params = settings(
        network=sizes, batch="large", large_batch=64, ghost_size=16, epochs=6, milestones=[5]
    )
    assert run(params)[0].metrics["accuracy"].value > 0.8


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    params = settings(batch="large", large_batch=64, ghost_size=16, lr_rule="sqrt", noise=0.5)
    expected, history = run(params)

    found, again = resumed(lambda c: apply(None, DATA, params, c), 11, tmp_path, monkeypatch)
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(tensor, found.module.state_dict()[name]), name
    assert again == history
    assert found.metrics == expected.metrics


def test_a_limit_takes_the_same_samples_for_every_seed():
    train = patches("blobs.train", 400, 0)
    object.__setattr__(train, "options", {"limit": 100})
    network, _ = run(settings(), {"train": [train]})
    assert network.metrics["updates"].value == 4 * 6
    assert "accuracy" not in network.metrics


def test_wrong_data_and_a_short_first_phase():
    table = Table("soup.train", np.zeros((3, 2)), np.zeros(3, np.int64), ["a", "b"], ["c"])
    with pytest.raises(RetrofitError, match=r"needs images, and soup\.train has none"):
        run(settings(), {"train": [table]})
    network, _ = run(settings(batch="large", large_batch=180, epochs=2, milestones=[1]))
    assert "log_slope" not in network.metrics
    assert network.metrics["distance"].value > 0


def test_a_killed_convolution_network_resumes_to_the_same_bits(tmp_path, monkeypatch):
    # its moments lie channels-last, as its weights, which a file does not keep
    params = settings(network=ResidualSizes(width=4, blocks=1), epochs=2, milestones=[])
    expected, _ = run(params)
    found, _ = resumed(
        lambda context: apply(None, DATA, params, context), 23, tmp_path, monkeypatch
    )
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(tensor, found.module.state_dict()[name]), name

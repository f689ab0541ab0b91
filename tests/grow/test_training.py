"""The whole method on digits: chains, costs, artifacts, resuming, and wrong bases."""

import copy

import numpy as np
import pytest
import torch

from methods.data.kinds import Images
from methods.grow import mixture_growth, scratch, train_members, widening
from methods.grow.mixture import Mixture
from methods.grow.network import load
from methods.grow.params import FromScratch, MixtureGrowth, MixtureMembers, Widen
from methods.grow.recipe import flops_of_update
from methods.measure.cost import count_parameters
from methods.models.networks.network import Network
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.fit.killed import resumed
from tests.grow.images import DATA, GROWTH, RECIPE, WIDE, digits, run

TEST = digits("digits.test", slice(1200, 1797))


def members(**changes):
    return MixtureMembers.model_validate({**RECIPE, "network": WIDE, "epochs": 5, **changes})


def growth(**changes):
    return MixtureGrowth.model_validate({**GROWTH, "epochs": 2, **changes})


def small(**changes):
    values = {**RECIPE, "network": WIDE, "size": "small", "epochs": 5, "times": 2.0}
    return FromScratch.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def pair():
    return run(train_members.apply, None, members())


@pytest.fixture(scope="module")
def seed():
    return run(scratch.apply, None, small())


def fresh(found):
    return copy.deepcopy(found[0])


def accuracy(network):
    return float((network.logits(TEST.x).argmax(1).numpy() == TEST.y).mean())


def test_members_learn_apart_and_are_left_as_their_sum(pair):
    network, history = pair
    assert network.module.part == "sum"
    alone = []
    for part in (0, 1):
        network.module.use(part)
        alone.append(network.logits(TEST.x))
        assert float((alone[-1].argmax(1).numpy() == TEST.y).mean()) > 0.75
    network.module.use("sum")
    torch.testing.assert_close(network.logits(TEST.x), alone[0] + alone[1], atol=1e-4, rtol=1e-4)
    curve = [row for row in history if "tflop" in row]
    assert [row["step"] for row in curve] == [*range(10, 101, 10)]
    assert network.metrics["updates"].value == 100
    assert curve[-1]["tflop"] == network.metrics["training_tflop"].value
    assert network.metrics["coefficients"].value == 8 * 8 + 2 * 4


def test_training_the_second_member_leaves_the_first_to_the_bit(monkeypatch):
    both = run(train_members.apply, None, members(epochs=2))[0].module
    whole = train_members.train

    def first_only(*args, **keywords):
        whole(*args, **{**keywords, "parts": (0,)})

    monkeypatch.setattr(train_members, "train", first_only)
    one = run(train_members.apply, None, members(epochs=2))[0].module
    for name, tensor in one.tensors(0).items():
        assert torch.equal(tensor, both.tensors(0)[name]), name
    name = "stages.0.conv1.weight"
    assert not torch.equal(one.tensors(1)[name], both.tensors(1)[name])


@pytest.mark.parametrize("policy", ["zero", "orthogonal", "copy", "published_code"])
def test_grown_networks_learn_and_are_ordinary(pair, policy, tmp_path):
    noise = 0.1 if policy == "copy" else 1.0
    network, history = run(mixture_growth.apply, fresh(pair), growth(policy=policy, noise=noise))
    assert accuracy(network) > (0.5 if policy == "copy" else 0.8)
    assert not isinstance(network.module, Mixture)
    plain = scratch.fresh(DATA["train"][0], WIDE, Context()).module
    assert count_parameters(network.module) == count_parameters(plain)
    spent = network.notes["training_flops"] - pair[0].notes["training_flops"]
    grown = Mixture(plain, torch.zeros(2, 1, 8, 8).normal_()).grow("none")
    assert spent == 20 * flops_of_update(grown, 50, (1, 8, 8))
    assert network.metrics["updates"].value == 120
    curve = [row["tflop"] for row in history if "tflop" in row]
    assert curve == sorted(set(curve))
    assert len(curve) == 12
    network.save(tmp_path)
    assert torch.equal(load(tmp_path).logits(TEST.x), network.logits(TEST.x))


def test_growth_by_zero_without_training_is_the_pair(pair):
    network = run(mixture_growth.apply, fresh(pair), growth(policy="zero", epochs=0))[0]
    torch.testing.assert_close(network.logits(TEST.x), pair[0].logits(TEST.x), atol=1e-4, rtol=1e-4)
    assert network.metrics["accuracy_at_growth"] == network.metrics["validation_accuracy"]
    assert network.metrics["training_tflop"] == pair[0].metrics["training_tflop"]


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("changes", [{}, {"templates": [3, 2], "share": True}])
def test_networks_in_template_form_load_to_the_same_bits(tmp_path, grown, changes):
    network = run(train_members.apply, None, members(epochs=1, **changes))[0]
    if grown:
        network = run(mixture_growth.apply, network, growth(epochs=1, keep_templates=True))[0]
        assert network.metrics["coefficients"].value > 0
    network.save(tmp_path)
    again = load(tmp_path)
    assert again.module.part == ("grown" if grown else "sum")
    assert torch.equal(again.logits(TEST.x), network.logits(TEST.x))
    assert again.notes == network.notes


def test_what_keeps_templates_folds_to_the_same_bits(pair):
    kept = run(mixture_growth.apply, fresh(pair), growth(keep_templates=True))[0]
    folded = run(mixture_growth.apply, fresh(pair), growth())[0]
    assert torch.equal(kept.logits(TEST.x), folded.logits(TEST.x))


@pytest.mark.parametrize("rule", ["net2net", "lemon", "random"])
def test_baselines_grow_in_the_same_frame(seed, rule, tmp_path):
    params = Widen.model_validate({**GROWTH, "rule": rule, "epochs": 2})
    network, history = run(widening.apply, fresh(seed), params)
    assert accuracy(network) > 0.8
    assert network.arguments["width"] == 8
    at_growth = network.metrics["accuracy_at_growth"].value
    kept = at_growth == seed[0].metrics["validation_accuracy"].value
    assert kept == (rule != "random")
    spent = network.notes["training_flops"] - seed[0].notes["training_flops"]
    assert spent == 20 * flops_of_update(network.module, 50, (1, 8, 8))
    assert len([row for row in history if "tflop" in row]) == 12
    network.save(tmp_path)
    assert torch.equal(load(tmp_path).logits(TEST.x), network.logits(TEST.x))


def test_a_pair_and_a_small_network_of_twice_the_epochs_cost_the_same(pair, seed):
    assert seed[0].arguments["width"] == 4
    assert seed[0].metrics["updates"].value == 100
    costs = [found[0].notes["training_flops"] for found in (pair, seed)]
    assert costs[0] == pytest.approx(costs[1], rel=0.02)


@pytest.mark.parametrize("method", ["members", "growth", "widen"])
def test_a_killed_run_resumes_to_the_same_bits(method, pair, seed, tmp_path, monkeypatch):
    apply, base, params, step = {
        "members": (train_members.apply, None, members(epochs=2), 30),
        "growth": (mixture_growth.apply, pair, growth(keep_templates=True), 111),
        "widen": (
            widening.apply,
            seed,
            Widen.model_validate({**GROWTH, "rule": "lemon", "epochs": 2}),
            111,
        ),
    }[method]

    def once(context):
        return apply(base and fresh(base), DATA, params, context)

    context = Context()
    expected = once(context)
    found, again = resumed(once, step, tmp_path, monkeypatch)
    for name, tensor in expected.module.state_dict().items():
        assert torch.equal(tensor, found.module.state_dict()[name]), name
    assert again == context.history
    assert found.metrics == expected.metrics
    assert found.notes == expected.notes


def test_augmentation_and_another_seed_change_the_weights():
    short = members(epochs=1)
    weights = [
        run(train_members.apply, None, params, seed=s)[0].module.banks["stem"].sets[0]
        for params, s in ((short, 0), (short, 1), (members(epochs=1, shift=1, cutout=3), 0))
    ]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_bases_that_cannot_grow_are_refused_with_the_reason(pair, seed):
    with pytest.raises(RetrofitError, match="is no pair of members"):
        run(mixture_growth.apply, fresh(seed), growth())
    grown = run(mixture_growth.apply, fresh(pair), growth(epochs=0, keep_templates=True))[0]
    with pytest.raises(RetrofitError, match="has grown already"):
        run(mixture_growth.apply, grown, growth())
    with pytest.raises(RetrofitError, match="join by `mixture_growth`"):
        run(widening.apply, fresh(pair), Widen.model_validate(GROWTH))
    other = Network(seed[0].module, "vit", {}, [0.5], [0.2], seed[0].classes)
    with pytest.raises(RetrofitError, match="no width of vit"):
        run(widening.apply, other, Widen.model_validate(GROWTH))
    larger = Images("large", np.zeros((60, 9, 9), np.uint8), np.zeros(60, int), seed[0].classes)
    with pytest.raises(RetrofitError, match=r"large has images of \[1, 9, 9\]"):
        run(widening.apply, fresh(seed), Widen.model_validate(GROWTH), {"train": [larger]})


def test_a_damaged_directory_is_refused(pair, tmp_path):
    pair[0].save(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"width": 8', '"width": 16'))
    with pytest.raises(RetrofitError, match="does not fit the network"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RetrofitError, match="holds no usable network"):
        load(tmp_path)

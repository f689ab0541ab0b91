"""A user's own module as a super-network: extraction, checks, refusals."""

import pytest
import torch
from torch import nn

from methods.search.choices import Choice
from methods.search.samplers import sampler
from methods.search.search import search
from methods.search.spaces.building import subnet, supernet
from methods.search.supernet import Supernet, recalibrate, reset
from methods.study.errors import RetrofitError
from tests.search.golden import close, random

FACTS = {"channels": 1, "classes": list("abcd"), "mean": [0.3], "std": [0.3]}
SPACES = {
    "cell": {"kind": "cell", "channels": 4, "shrink": 1},
    "macro": {
        "kind": "macro",
        "widths": [[2, 4], [4, 2, 8], [4, 8], [8]],
        "kernels": [5, 3],
        "shrink": 1,
    },
    "language": {
        "kind": "language",
        "embeddings": [8, 16],
        "heads": [4, 2],
        "ratios": [1, 2.5],
        "depths": [1, 2],
        "length": 12,
    },
}


def example(kind):
    if kind == "language":
        return torch.arange(24).reshape(2, 12) * 7 % 256
    return random(4, 1, 8, 8)


def small_net():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


WIDTH = Choice("width", (2, 8, 4))
PLAN = {"0": {"out": WIDTH}, "1": {"width": WIDTH}, "5": {"in": WIDTH}}


@pytest.mark.parametrize("sharing", ["entangled", "outputs", "separate"])
@pytest.mark.parametrize("kind", SPACES)
def test_every_architecture_cut_out_is_the_one_hot_super_network(kind, sharing):
    net = supernet(SPACES[kind], FACTS, sharing, seed=1)
    x = example(kind)
    net.verify(x)
    architectures = list(net.space)
    with torch.no_grad():
        for chosen in architectures[:: max(1, len(architectures) // 12)]:
            net.eval()
            small = net.extract(chosen)
            with net.mixture.under(chosen=chosen):
                assert torch.equal(net(x), small(x))
            close(net.under_one_hot(chosen, x), small(x), 1e-4)
            # With batch statistics as well.
            close(net.train().under_one_hot(chosen, x), small.train()(x), 1e-4)
    fresh = subnet(SPACES[kind], FACTS, architectures[0], seed=0)
    assert set(fresh.state_dict()) == set(net.extract(architectures[0]).state_dict())
    assert not any(type(m).__module__.endswith(("layers", "norms")) for m in fresh.modules())


def gradients(kind, name):
    """{decision: gradient of its architecture parameters} of one forward pass."""
    net = supernet(SPACES[kind], FACTS, seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        with net.mixture.under(weights=net.sample(sampler(name))):
            loss = net(example(kind)).square().mean()
        found = torch.autograd.grad(loss, list(net.alphas))
    assert all(torch.isfinite(gradient).all() for gradient in found)
    return dict(zip(net.space.choices, found, strict=True))


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("name", ["darts", "darts_sparsemax", "drnas"])
def test_every_decision_gets_a_gradient_from_a_mixture(kind, name):
    for decision, gradient in gradients(kind, name).items():
        only = decision == "width.4"  # has one option
        assert only or float(gradient.abs().sum()) > 0, decision


def test_gdas_has_gradients_for_operations_but_none_beyond_a_drawn_width():
    """A channel that is off is masked where it is made and where it is read: the product of two

    zeros has no slope, so nothing says what a wider option would have given.
    """
    assert all(float(g.abs().sum()) > 0 for g in gradients("cell", "gdas").values())
    assert not gradients("macro", "gdas")["width.1"].any()
    assert gradients("macro", "drnas")["width.1"].any()


def test_weights_and_architecture_parameters_are_apart():
    """As published for one space, the optimiser of the weights holds both."""
    net = Supernet(small_net(), PLAN)
    alphas = {id(alpha) for alpha in net.alphas}
    assert not alphas & {id(p) for p in net.weights()}
    assert len(net.weights()) + len(alphas) == len(list(net.parameters()))


def test_calling_it_is_calling_the_present_architecture():
    net = Supernet(small_net(), PLAN).eval()
    net.alphas[0].data = torch.tensor([0.0, 0.1, 0.9])
    assert net.architecture() == {"width": 4}
    x = random(2, 1, 6, 6)
    assert torch.equal(net(x), net.extract()(x))


def test_an_extracted_module_does_not_share_its_weights():
    net = Supernet(small_net(), PLAN)
    small = net.extract({"width": 8})
    before = net.module[0].weight.detach().clone()
    small[0].weight.data.zero_()
    assert torch.equal(net.module[0].weight, before)


def test_operations_of_a_users_own_are_chosen_by_name():
    ops = nn.ModuleDict({"pool": nn.AvgPool2d(3, 1, 1), "skip": nn.Identity()})
    net = Supernet(nn.Sequential(ops), {"0": {"op": Choice("op", ("skip", "pool"))}})
    x = random(1, 2, 4, 4)
    assert torch.equal(net.extract({"op": "pool"})(x), ops["pool"](x))
    with net.mixture.under(weights={"op": torch.tensor([0.25, 0.75])}):
        close(net(x), 0.25 * x + 0.75 * ops["pool"](x))


def test_a_search_finds_what_the_data_need():
    """A stripe's direction is seen by a kernel of 3 and not by one of 1."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        y = torch.arange(128) % 2
        stripes = torch.zeros(8, 8)
        stripes[::2] = 1.0
        x = torch.where(y[:, None, None] == 1, stripes, stripes.T)[:, None]
        x = x + 0.1 * torch.randn(128, 1, 8, 8)
        kernel = Choice("kernel", (3, 1))
        net = Supernet(reset(small_net(), 0), {"0": {"kernel": kernel}})
    loss = nn.functional.cross_entropy
    found = search(net, lambda m, step: loss(m(x), y), steps=60, architecture_learning_rate=0.1)
    assert found == {"kernel": 3}
    assert float((net.alphas[0][0] - net.alphas[0][1]).detach()) > 1


def test_recalibration_gives_a_sub_networks_own_statistics():
    net = Supernet(small_net(), PLAN)
    small = net.extract({"width": 4})
    x = [3 * random(16, 1, 6, 6, seed=s) for s in range(3)]
    recalibrate(small, x)
    with torch.no_grad():
        each = [small[0](part) for part in x]
    close(small[1].running_mean, torch.stack([e.mean((0, 2, 3)) for e in each]).mean(0), 1e-5)
    assert small[1].momentum == 0.1


def test_a_plan_that_forgets_a_reader_is_found_out():
    forgetful = Supernet(small_net(), {name: PLAN[name] for name in ("0", "1")})
    with pytest.raises(RetrofitError, match=r"does not run.*is every layer that reads"):
        forgetful.verify(random(2, 1, 6, 6))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({}, "search space is empty"),
        ({"0": {}}, "search space is empty"),
        ({"conv": {"out": WIDTH}}, "there is no layer 'conv'"),
        ({"0": {"width": WIDTH}}, r"layer 0 \(Conv2d\) has no axis 'width'; .*allowed: out, in"),
        ({"2": {"out": WIDTH}}, "layer 2 is ReLU, which cannot have a choice; known are Linear"),
        ({"0": {"out": Choice("w", (2, 16))}}, "asks for 16 outputs, its super-weight has 8"),
    ],
)
def test_plans_that_do_not_fit_are_refused_with_the_reason(plan, words):
    with pytest.raises(RetrofitError, match=words):
        Supernet(small_net(), plan)


def test_an_architecture_of_another_space_is_refused():
    with pytest.raises(RetrofitError, match="width = 5: allowed: 2, 8, 4"):
        Supernet(small_net(), PLAN).extract({"width": 5})

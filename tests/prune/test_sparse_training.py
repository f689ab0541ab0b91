"""Masks in training: 40 steps of the published code, exact counts, nothing revives, nothing is lost."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from methods.models.networks.residual import Residual
from methods.prune.sparse_training import SparseTraining, attach, check, detach, masked_layers
from methods.prune.transform import Recipe, transform
from methods.study.errors import RetrofitError
from tests.prune.golden import DST

SGD = {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, **SGD),
    "adam": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
}


def golden(name):
    return torch.from_numpy(DST[name])


class Published(nn.Module):
    """The network of the golden trajectories."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, bias=False), nn.Linear(24, 10, bias=False)

    def forward(self, x):
        return self.b(self.a(x).relu().flatten(1))


@pytest.mark.parametrize("update", ["static", "rigl"])
def test_forty_steps_of_the_published_code(update):
    net = Published()
    masks = {name: golden(f"traj_{update}_mask_init_{name}") for name in "ab"}
    attach(net, {name: int(mask.sum()) for name, mask in masks.items()})
    for name, mask in masks.items():
        layer = net.get_submodule(name)
        layer.weight_mask.copy_(mask)
        layer.weight.data = golden(f"traj_w0_{name}") * mask
    optimizer = torch.optim.SGD(net.parameters(), **SGD)
    SparseTraining(net, optimizer, steps=40, update=update, every=5)
    if update == "rigl":
        # Its masks begin by chance at 85 of 162 and 121 of 240, and take half from the first move on.
        net.a.weight_goal, net.b.weight_goal = 81, 120
    for step in range(40):
        loss = cross_entropy(net(golden("traj_X")[step]), golden("traj_Y")[step])
        assert float(loss.detach()) == pytest.approx(DST[f"traj_{update}_loss"][step], abs=2e-6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name in "ab":
            layer = net.get_submodule(name)
            assert torch.equal(layer.weight_mask, golden(f"traj_{update}_mask_{name}")[step])
            torch.testing.assert_close(
                layer.weight.detach(), golden(f"traj_{update}_w_{name}")[step], atol=2e-6, rtol=0
            )


def network(update="rigl", seed=0):
    torch.manual_seed(0)
    model = Residual(1, 4, width=4, blocks=1)
    start = "full" if update == "gradual" else "random"
    return transform(model, torch.zeros(1, 1, 8, 8), Recipe("wide", 0.75), seed=seed, start=start)[
        0
    ]


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 1, 8, 8, generator=generator), torch.randint(4, (8,), generator=generator)


def train(net, optimizer, first, last, clip=None, parts=1, after=None):
    for step in range(first, last):
        optimizer.zero_grad()
        x, y = batch(step)
        for part_x, part_y in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (cross_entropy(net(part_x), part_y) / parts).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        if after:
            after(step + 1)


@pytest.mark.parametrize("update", ["static", "set", "rigl"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_counts_are_exact_and_nothing_revives(update, kind):
    net = network()
    optimizer = OPTIMIZERS[kind](net.parameters())
    SparseTraining(net, optimizer, steps=40, update=update, every=3)
    layers = masked_layers(net)
    before = {name: layer.weight_mask.clone() for name, layer in layers.items()}
    moved = 0

    def look(step):
        nonlocal moved
        for name, layer in layers.items():
            outside = ~layer.weight_mask
            assert int(layer.weight_mask.sum()) == layer.weight_goal, name
            assert not layer.weight[outside].any(), (step, name)
            for value in optimizer.state[layer.weight].values():
                assert value.shape != layer.weight.shape or not value[outside].any(), (step, name)
            moved += int((layer.weight_mask != before[name]).sum())
            before[name] = layer.weight_mask.clone()

    train(net, optimizer, 0, 40, after=look)
    assert (moved > 0) == (update != "static")
    check(net)


def test_a_weight_that_is_grown_begins_at_zero_without_momentum():
    net = network()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    SparseTraining(net, optimizer, steps=100, every=4)
    layer = net.stages[0].conv1
    train(net, optimizer, 0, 3)
    before = layer.weight_mask.clone()
    train(net, optimizer, 3, 4)
    grown = layer.weight_mask & ~before
    assert grown.any()
    assert not layer.weight[grown].any()
    assert not optimizer.state[layer.weight]["momentum_buffer"][grown].any()
    train(net, optimizer, 4, 5)
    assert layer.weight[grown].all()


def test_masks_rest_after_their_end():
    net = network()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    sparse = SparseTraining(net, optimizer, steps=40, every=5)
    assert [s for s in range(1, 41) if sparse.moves(s)] == [5, 10, 15, 20, 25]
    train(net, optimizer, 0, 30)
    before = net.stages[1].conv2.weight_mask.clone()
    train(net, optimizer, 30, 40)
    assert torch.equal(before, net.stages[1].conv2.weight_mask)
    assert sparse.step == 40
    sparse.remove()
    train(net, optimizer, 40, 42)
    assert sparse.step == 40


def test_clipping_does_not_see_masked_gradients_nor_change_what_is_grown():
    """A bound on the norm scales the active gradients only; the ranking must not feel it."""
    masks = []
    for clip in (None, 1e-3):
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-12)
        SparseTraining(net, optimizer, steps=100, every=2)
        norms = []

        def note(optimizer, *_, net=net, norms=norms):
            norms.append(float(sum((p.grad**2).sum() for p in net.parameters()) ** 0.5))

        optimizer.register_step_pre_hook(note)
        train(net, optimizer, 0, 2, clip)
        masks.append([layer.weight_mask for layer in masked_layers(net).values()])
        if clip:
            assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)
    assert all(map(torch.equal, *masks))


def test_gradients_of_several_passes_are_compared_as_their_sum():
    found = []
    for parts in (1, 4):
        net = network()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        SparseTraining(net, optimizer, steps=100, every=1)
        train(net, optimizer, 0, 1, parts=parts)
        found.append(torch.cat([m.weight_mask.flatten() for m in masked_layers(net).values()]))
    assert float((found[0] != found[1]).double().mean()) < 1e-3  # sums differ in their last bits


@pytest.mark.parametrize(("begin", "end"), [(0.0, 0.5), (0.5, 0.5)])
def test_gradual_pruning_begins_full_and_ends_at_its_goal(begin, end):
    net = network("gradual")
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    SparseTraining(net, optimizer, steps=40, update="gradual", every=3, begin=begin, end=end)
    layers = masked_layers(net)
    assert all(layer.weight_mask.all() for layer in layers.values())
    counts = []
    train(
        net,
        optimizer,
        0,
        40,
        after=lambda _: counts.append(sum(int(m.weight_mask.sum()) for m in layers.values())),
    )
    assert counts == sorted(counts, reverse=True)
    goal = sum(layer.weight_goal for layer in layers.values())
    assert counts[18] > goal
    assert counts[19] == counts[-1] == goal
    assert len(set(counts)) == (2 if begin == end else 8)
    check(net)


@pytest.mark.parametrize("update", ["set", "rigl", "gradual"])
def test_state_dicts_are_all_there_is(update):
    """Stopped after 17 steps and built anew with other masks: the same bits as without a stop."""

    def start(seed):
        net = network(update, seed)
        optimizer = OPTIMIZERS["adam"](net.parameters())
        SparseTraining(net, optimizer, steps=40, update=update, every=3, seed=5)
        return net, optimizer

    whole, optimizer = start(0)
    train(whole, optimizer, 0, 40)
    half, optimizer = start(0)
    train(half, optimizer, 0, 17)
    saved = copy.deepcopy((half.state_dict(), optimizer.state_dict()))
    again, optimizer = start(1)
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(again, optimizer, 17, 40)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_keys_are_those_of_the_network_and_the_masks():
    net = network()
    extra = net.state_dict().keys() - detach(copy.deepcopy(net)).state_dict().keys()
    assert extra == {"mask_step", *(f"{name}.weight_mask" for name in masked_layers(net))}
    plain = detach(net)
    assert not masked_layers(plain)
    plain.load_state_dict(plain.state_dict())
    attach(plain, {"stages.0.conv1": 5})
    with pytest.raises(RetrofitError, match="has masks already"):
        attach(plain, {"stages.0.conv1": 5})


def test_checkpoints_with_other_masks_are_refused():
    net, other = network(), network()
    saved = other.state_dict()
    saved["stages.1.conv1.weight_mask"].view(-1)[
        saved["stages.1.conv1.weight_mask"].view(-1).nonzero()[0]
    ] = False
    with pytest.raises(
        RetrofitError, match=r"mask of stages\.1\.conv1 keeps \d+ of 1152 .* another sparsity"
    ):
        net.load_state_dict(saved)
    saved = {name: t.clone() for name, t in network(seed=1).state_dict().items()}
    saved["stages.1.conv1.weight_mask"] = network().state_dict()["stages.1.conv1.weight_mask"]
    with pytest.raises(RetrofitError, match=r"weights of stages\.1\.conv1 are masked and not zero"):
        network().load_state_dict(saved)
    with pytest.raises(RuntimeError, match=r"Missing key.*weight_mask"):
        network().load_state_dict(detach(network()).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        network().load_state_dict(
            transform(Residual(1, 4, 4, 1), torch.zeros(1, 1, 8, 8), Recipe("wide", 0.5))[
                0
            ].state_dict()
        )


def test_wrong_beginnings_are_refused():
    net = network()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    plain = detach(network())
    for arguments, message in [
        ((plain, optimizer, 10), "has no masks"),
        (
            (net, torch.optim.SGD(plain.parameters()), 10),
            "does not hold the weight of stages.0.conv1",
        ),
        ((net, optimizer, 10, "rigl", 0), "cannot move every 0 of 10 steps"),
        ((net, optimizer, 10, "rigl", 1, 0.3, 0.8, 0.2), "from 0.8 to 0.2"),
        ((net, optimizer, 10, "riggl"), "did you mean 'rigl'"),
        ((net, optimizer, 10, "gradual"), "gradual pruning begins with full masks"),
        ((network("gradual"), optimizer, 10), "does not hold"),
    ]:
        with pytest.raises(RetrofitError, match=message):
            SparseTraining(*arguments)
    full = network("gradual")
    with pytest.raises(RetrofitError, match="'set' and masks that begin full"):
        SparseTraining(full, OPTIMIZERS["sgd"](full.parameters()), 10, "set")

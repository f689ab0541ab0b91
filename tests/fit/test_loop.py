"""The training loop: what it does in a step, and that a killed run continues to the same bits."""

import copy

import pytest
import torch
from torch import nn

from methods.fit.batches import Batches
from methods.fit.early_stop import EarlyStop
from methods.fit.loop import fit
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context
from methods.study.errors import RetrofitError

SAMPLES = 20
X = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(SAMPLES) % 3
BATCHES = Batches(SAMPLES, 8, seed=1)


def network(dropout=0.5):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
        )


def loss(module, step):
    chosen = BATCHES.indices(step)
    return nn.functional.cross_entropy(module(X[chosen]), Y[chosen])


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, fused=True)


def test_it_is_the_plain_loop_with_schedule_and_clipping():
    module, reference = network(0.0), network(0.0)
    outcome = fit(
        module, loss, sgd(module), steps=7, context=Context(), learning_rate=lambda s: 0.1 / (s + 1),
        clip_norm=0.5,
    )  # fmt: skip
    optimizer = torch.optim.SGD(reference.parameters(), lr=1, momentum=0.9)
    for step in range(7):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.zero_grad()
        last = loss(reference, step)
        last.backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
    assert outcome.steps == 7
    assert outcome.loss == pytest.approx(last.item())
    for ours, theirs in zip(
        module.state_dict().values(), reference.state_dict().values(), strict=1
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-6)


def test_the_default_generator_is_seeded_inside_and_untouched_outside():
    before = torch.get_rng_state()
    one, two, other = network(), network(), network()
    for module, seed in ((one, 0), (two, 0), (other, 1)):
        fit(module, loss, sgd(module), steps=4, context=Context(seed=seed))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one[0].weight, two[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_groups_may_scale_the_rate():
    module = network()
    groups = [{"params": module[0].parameters()}, {"params": module[4].parameters(), "scale": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=1)
    fit(module, loss, optimizer, steps=1, context=Context(), learning_rate=lambda step: 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1]


class KilledError(Exception):
    pass


class Counter:
    """Something with state of its own."""

    def __init__(self):
        self.seen = []
        self.total = torch.zeros(2)

    def state(self):
        return {"total": self.total}, {"seen": self.seen}

    def restore_state(self, tensors, state):
        self.total, self.seen = tensors["total"], list(state["seen"])


def trained(tmp_path, make_optimizer, kill_after=None, early_stop=None):
    history = []
    context = Context(checkpoint=Checkpoint(tmp_path, history), history=history)
    context.checkpoint.every = lambda seconds: True
    module, counter = network(), Counter()

    def after_step(step, value):
        counter.seen.append(step)
        counter.total += value
        context.record(step=step, loss=float(value))
        if step == kill_after:
            raise KilledError

    def after_epoch(epoch):
        assert module.training
        module.eval()  # the loop must put it back
        return -float(epoch > 1)

    try:
        fit(
            module, loss, make_optimizer(module), steps=14, context=context, steps_per_epoch=3,
            after_step=after_step, after_epoch=after_epoch, keeping={"counter": counter},
            early_stop=early_stop,
        )  # fmt: skip
    except KilledError:
        return None
    return module.state_dict(), counter, history


@pytest.mark.parametrize("kill_after", [1, 3, 5, 13])
@pytest.mark.parametrize(
    "make_optimizer",
    [
        sgd,
        lambda m: torch.optim.SGD(m.parameters(), lr=0.1),
        lambda m: torch.optim.AdamW(m.parameters(), lr=0.01),
    ],
    ids=["momentum", "plain", "adamw"],
)
def test_a_killed_run_continues_to_the_same_bits(tmp_path, make_optimizer, kill_after):
    expected, whole, history = trained(tmp_path / "whole", make_optimizer)
    assert trained(tmp_path / "cut", make_optimizer, kill_after) is None
    found, resumed, continued = trained(tmp_path / "cut", make_optimizer)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert resumed.seen == whole.seen == list(range(1, 15))
    assert torch.equal(resumed.total, whole.total)
    assert continued == history


def test_early_stopping_restores_the_best_weights_also_after_a_kill(tmp_path):
    def stop():
        return EarlyStop(patience=2)

    expected, counter, _ = trained(tmp_path / "whole", sgd, early_stop=stop())
    assert counter.seen[-1] == 9  # epoch 0 is best; epochs 1 and 2 bring nothing better
    short = network()
    fit(short, loss, sgd(short), steps=3, context=Context())
    assert all(torch.equal(expected[k], v) for k, v in short.state_dict().items())
    assert trained(tmp_path / "cut", sgd, kill_after=7, early_stop=stop()) is None
    found, _, _ = trained(tmp_path / "cut", sgd, early_stop=stop())
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    trained(tmp_path, sgd, kill_after=5)
    module = nn.Linear(6, 3)
    context = Context(checkpoint=Checkpoint(tmp_path))
    with pytest.raises(RetrofitError, match="does not fit its network"):
        fit(module, loss, sgd(module), steps=3, context=context)


def test_a_loss_that_is_no_number_stops_the_run():
    module = network()
    with pytest.raises(RetrofitError, match="the loss is nan at update 3"):
        fit(
            module,
            lambda m, step: loss(m, step) * (float("nan") if step == 2 else 1),
            sgd(module),
            steps=9,
            context=Context(),
            steps_per_epoch=3,
        )


def test_bfloat16_runs_the_forward_pass_in_bfloat16_and_keeps_weights_float32():
    seen = []
    module = network()

    def spying(m, step):
        out = m(X[BATCHES.indices(step)])
        seen.append(out.dtype)
        return nn.functional.cross_entropy(out.float(), Y[BATCHES.indices(step)])

    fit(module, spying, sgd(module), steps=1, context=Context(), precision="bfloat16")
    assert seen == [torch.bfloat16]
    assert module[0].weight.dtype == torch.float32


def test_before_epoch_is_called_first_in_each_epoch():
    calls = []
    module = network()
    optimizer = sgd(module)

    def forget(epoch):
        calls.append((epoch, len(optimizer.state)))
        optimizer.state.clear()

    fit(module, loss, optimizer, steps=6, context=Context(), steps_per_epoch=3, before_epoch=forget)
    assert calls == [(0, 0), (1, 4 + 2)]


def test_early_stop_ignores_nan_and_small_gains():
    stop, module = EarlyStop(patience=2, margin=0.1), copy.deepcopy(network())
    assert not stop.update(0.5, 0, module)
    assert not stop.update(float("nan"), 1, module)
    assert stop.update(0.55, 2, module)
    assert stop.best_epoch == 0
    with pytest.raises(ValueError, match="at least 1"):
        EarlyStop(patience=0)

"""Ensembles: each member is what it would be alone, members leave, resuming, modules refused."""

import copy

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits
from torch import nn

from methods.data.kinds import Images, Table
from methods.dynamics.sgd_noise import phases
from methods.dynamics.sgd_noise.ensemble import Ensemble, Member
from methods.dynamics.sgd_noise.hinge import drawn, hinge
from methods.dynamics.sgd_noise.networks import build
from methods.dynamics.sgd_noise.params import ConvSizes, DenseSizes, SGDNoise
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context
from methods.study.errors import RetrofitError

DIGITS = load_digits()
X = torch.tensor(DIGITS.images, dtype=torch.float32)[:, None] / 8 - 1
Y = torch.tensor(DIGITS.target % 2 * 2.0 - 1, dtype=torch.float32)


SMALL = DenseSizes(width=16, depth=1)


def made(members, network=SMALL, y=Y, x=X):
    torch.manual_seed(0)
    module = build(network, (1, 8, 8))
    most = max(m.size for m in members)
    images = torch.arange(most).expand(len(members), most)
    return Ensemble([copy.deepcopy(module) for _ in members], members, x, y, images), module


GRID = [Member(a, t, p, 5) for a in (0.1, 10.0) for t in (0.1, 0.5) for p in (40, 80)]


@pytest.mark.parametrize("network", [DenseSizes(width=16, depth=2), ConvSizes(width=4, depth=2)])
def test_a_member_is_what_plain_sgd_makes_of_it_alone(network):
    member = Member(2.0, 0.3, 60, 11)
    ensemble, module = made([Member(0.5, 0.1, 60, 3), member], network)
    found = ensemble.train(10, 25)
    start = copy.deepcopy(module)
    optimizer = torch.optim.SGD(module.parameters(), member.temperature * 10)
    for update in range(25):
        rows = drawn(torch.tensor([11]), update, 10, torch.tensor([60]))[0]
        f = module(X[rows]).squeeze(-1) - start(X[rows]).squeeze(-1).detach()
        optimizer.zero_grad()
        hinge(f, Y[rows], torch.tensor(2.0)).backward()
        optimizer.step()
    for name, value in module.named_parameters():
        torch.testing.assert_close(found.weights[name][1], value.detach(), rtol=2e-4, atol=2e-5)


def test_fitted_members_have_no_errors_and_change_no_more():
    ensemble, _ = made(GRID)
    found = ensemble.train(8, 4000)
    assert found.fitted.all()
    assert len(set(found.updates.tolist())) > 2
    for i, member in enumerate(GRID):
        rows = torch.arange(member.size)[None]
        which = torch.tensor([i])
        weights = {n: v[which] for n, v in found.weights.items()}
        first = {n: v[which] for n, v in ensemble.first.items()}
        f = ensemble.all_outputs(weights, rows, which) - ensemble.all_outputs(first, rows, which)
        assert (Y[: member.size] * f[0] >= 1 / member.alpha - 1e-5).all()


def test_the_predictor_vanishes_at_the_start():
    ensemble, _ = made(GRID)
    rows = torch.arange(30).expand(len(GRID), 30)
    every = torch.arange(len(GRID))
    f = ensemble.all_outputs(ensemble.first, rows, every)
    assert torch.equal(f - ensemble.all_outputs(ensemble.first, rows, every), torch.zeros_like(f))


def test_lazy_networks_move_less():
    ensemble, _ = made([Member(a, 0.05, 80, 1) for a in (0.1, 1.0, 100.0)])
    found = ensemble.train(8, 8000)
    assert found.fitted.all()
    assert found.distance.tolist() == sorted(found.distance.tolist(), reverse=True)
    assert found.distance[0] > 5 * found.distance[2]


def test_too_hot_is_flagged_and_kept():
    ensemble, _ = made([Member(1.0, 0.1, 40, 1), Member(1.0, 1e25, 40, 1)])
    found = ensemble.train(8, 2000)
    assert found.stable.tolist() == [True, False]
    assert found.fitted.tolist() == [True, False]


def test_a_run_goes_on_from_what_was_saved_to_the_same_bits():
    whole = made(GRID)[0].train(8, 400)
    states = []

    def save(state):
        states.append({k: v.clone() if torch.is_tensor(v) else v for k, v in state.items()})
        states[-1]["weights"] = {n: v.clone() for n, v in state["weights"].items()}

    made(GRID)[0].train(8, 400, save=save)
    again = made(GRID)[0].train(8, 400, saved=states[len(states) // 2])
    assert torch.equal(again.updates, whole.updates)
    for name, value in whole.weights.items():
        assert torch.equal(again.weights[name], value)


class Odd(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), layer, nn.Linear(8, 1))

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize(
    ("layer", "words"),
    [(nn.BatchNorm1d(8), "BatchNorm1d: its output depends"), (nn.Dropout(), "random")],
)
def test_modules_that_break_centring_are_refused(layer, words):
    with pytest.raises(RetrofitError, match=words):
        Ensemble([Odd(layer)], [Member(1, 1, 10, 0)], X, Y, torch.arange(10)[None])


def test_wrong_input_is_named():
    with pytest.raises(RetrofitError, match=r"labels must be \+1 and -1, found \[0.0, 1.0\]"):
        made(GRID, y=(Y + 1) / 2)
    with pytest.raises(RetrofitError, match="not finite"):
        made(GRID, x=torch.where(X > 0.9, torch.nan, X))
    with pytest.raises(RetrofitError, match="batch 100 is larger than 40"):
        made(GRID)[0].train(100, 10)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alphas": [0.0, 1.0]}, "alphas must be above 0"),
        ({"temperatures": [1.0, 0.5]}, "temperatures must rise"),
        ({"sizes": [8], "batch": 16}, "batch 16 is larger"),
        ({"factor": 1.0}, "greater than 1"),
    ],
)
def test_settings_that_cannot_work(settings, words):
    with pytest.raises(ValidationError, match=words):
        SGDNoise(**settings)


def images(name, rows):
    x = (DIGITS.images[rows] * 15).astype(np.uint8)
    return Images(name, x, DIGITS.target[rows].astype(np.int64), [str(i) for i in range(10)])


DATA = {"train": [images("d.train", slice(0, 900))], "test": [images("d.test", slice(900, 1200))]}
SETTINGS = {
    "network": {"kind": "dense", "width": 16, "depth": 1},
    "alphas": [1.0, 64.0],
    "temperatures": [0.05, 0.2, 0.8],
    "sizes": [32, 64, 128],
    "batch": 8,
    "replicates": 2,
    "pool": 1,
    "max_updates": 1500,
}


def test_a_whole_diagram_is_one_job_with_a_record_for_every_network():
    context = Context(seed=0)
    result = phases.apply(None, DATA, SGDNoise(**SETTINGS), context)
    assert len(result.records) == 2 * 3 * 2 * 3
    assert len(context.history) == 3 * 2 * 3
    assert {"fitted", "stable", "gain/a1", "error/a64/cold"} <= set(result.metrics)
    assert all(row["error"] < 0.5 for row in result.records if row["fitted"] and row["size"] == 128)
    again = phases.apply(None, DATA, SGDNoise(**SETTINGS), Context(seed=0))
    assert again.records == result.records


def test_a_killed_diagram_resumes_to_the_same_bits(tmp_path, monkeypatch):
    whole = phases.apply(None, DATA, SGDNoise(**SETTINGS), Context(seed=0))
    monkeypatch.setattr(phases, "CHECKPOINT_SECONDS", 0.0)
    looks = []
    look = Ensemble._look

    def killed(self, *arguments):
        looks.append(1)
        if len(looks) == 5:
            raise KeyboardInterrupt
        return look(self, *arguments)

    monkeypatch.setattr(Ensemble, "_look", killed)
    with pytest.raises(KeyboardInterrupt):
        phases.apply(
            None, DATA, SGDNoise(**SETTINGS), Context(seed=0, checkpoint=Checkpoint(tmp_path))
        )
    monkeypatch.setattr(Ensemble, "_look", look)
    again = phases.apply(
        None, DATA, SGDNoise(**SETTINGS), Context(seed=0, checkpoint=Checkpoint(tmp_path))
    )
    assert again.records == whole.records


def test_data_that_do_not_fit_are_named():
    table = Table("t", np.zeros((3, 2)), np.zeros(3, np.int64), ["a", "b"], ["x"])
    with pytest.raises(RetrofitError, match="sgd_noise: train needs images"):
        phases.apply(None, {**DATA, "train": [table]}, SGDNoise(**SETTINGS), Context())
    with pytest.raises(RetrofitError, match="5000 images are asked for, and there are 900"):
        phases.apply(None, DATA, SGDNoise(**{**SETTINGS, "sizes": [32, 5000]}), Context())

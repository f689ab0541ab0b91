"""The teacher perceptron: the reference simulation, an exact scaling, and the theory's direction."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.dynamics.sgd_noise import teacher
from methods.dynamics.sgd_noise.params import SGDPerceptron
from methods.dynamics.sgd_noise.teacher import apply, points, train
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context

GOLDEN = json.loads(Path("tests/golden/sgd_noise/perceptron_d10.json").read_text())


@pytest.mark.parametrize(("chi", "sizes"), [(0.0, [32, 64]), (1.0, [64, 128, 256])])
def test_means_are_those_of_the_reference_simulation(chi, sizes):
    result = apply(None, {}, SGDPerceptron(chi=chi, sizes=sizes, replicates=40), Context(seed=3))
    known = {row["P"]: row for row in GOLDEN if row["chi"] == chi and row["T"] == 1.0}
    for size in sizes:
        for ours, theirs in (("w1", "w1"), ("w_perp", "wp"), ("w", "w")):
            values = [row[ours] for row in result.records if row["size"] == size]
            # The reference is a mean of 8, so its error is that of 8 of ours.
            error = np.std(values, ddof=1) * np.sqrt(1 / len(values) + 1 / 8)
            assert abs(np.mean(values) - known[size][theirs]) < 3.5 * error, (size, ours)


def test_temperature_and_margin_scaled_together_scale_the_weights_exactly():
    x = points((3, 40), 10, 0.0, np.random.default_rng(0))
    seeds = torch.tensor([1, 2, 3])
    one = torch.ones(3, dtype=torch.float64)
    w, updates, _ = train(x, one, 0.25 * one, 2, seeds, 100_000)
    scaled, same, _ = train(x, 8 * one, 2 * one, 2, seeds, 100_000)
    assert torch.equal(updates, same)
    assert torch.equal(scaled, 8 * w)


@pytest.mark.parametrize("chi", [0.0, 1.0, 3.0])
def test_the_density_of_the_points(chi):
    x = points((200_000,), 3, chi, np.random.default_rng(1))
    assert float((x[:, 0] > 0).double().mean()) == pytest.approx(0.5, abs=0.005)
    # E x1^2 of |x1|^chi exp(-x1^2 / 2)
    assert float(x[:, 0].square().mean()) == pytest.approx(chi + 1, rel=0.02)
    assert float(x[:, 1].var()) == pytest.approx(1, rel=0.02)


def test_fitted_perceptrons_have_every_margin():
    x = points((4, 50), 10, 1.0, np.random.default_rng(2))
    one = torch.ones(4, dtype=torch.float64)
    w, _, done = train(x, one, 0.01 * one, 2, torch.arange(4), 100_000)
    assert done.all()
    margins = x[..., 0].sign() * (x @ w.unsqueeze(-1)).squeeze(-1) / 10**0.5
    assert float(margins.min()) >= 0.01


def test_a_flatter_border_makes_the_weights_grow_less():
    exponents = []
    for chi in (0.0, 1.0):
        params = SGDPerceptron(chi=chi, sizes=[32, 64, 128], replicates=24)
        exponents.append(apply(None, {}, params, Context(seed=0)).metrics["gamma/w"])
    gap = exponents[0].value - exponents[1].value
    assert gap > 2 * np.hypot(exponents[0].stderr, exponents[1].stderr)


def test_weights_are_in_proportion_to_temperature():
    params = SGDPerceptron(sizes=[64], temperatures=[0.1, 0.3, 1.0, 3.0], replicates=16)
    found = apply(None, {}, params, Context(seed=0)).metrics["delta/w"]
    assert found.value == pytest.approx(1, abs=0.06)


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    params = SGDPerceptron(sizes=[16, 32, 64], replicates=4)
    whole = apply(None, {}, params, Context(seed=0))
    one_size = teacher._one_size

    def killed(size, *rest):
        if size == 64:
            raise KeyboardInterrupt
        return one_size(size, *rest)

    monkeypatch.setattr(teacher, "_one_size", killed)
    with pytest.raises(KeyboardInterrupt):
        apply(None, {}, params, Context(seed=0, checkpoint=Checkpoint(tmp_path)))
    monkeypatch.setattr(teacher, "_one_size", one_size)
    again = apply(None, {}, params, Context(seed=0, checkpoint=Checkpoint(tmp_path)))
    assert again.records == whole.records

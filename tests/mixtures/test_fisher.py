"""The information of the gate with a temperature: the table of the specification, and directions by name."""

import json
from pathlib import Path

import pytest
import torch

from methods.mixtures.designs import TEMPERED
from methods.mixtures.fisher import information, packed, scores, unpacked
from methods.mixtures.gates import Gate
from methods.mixtures.information import apply
from methods.mixtures.mixture import log_likelihood, sample
from methods.mixtures.params import MoEFisher
from methods.run.context import Context

KNOWN = json.loads(Path("tests/golden/moe/temperature_fisher.json").read_text())["eigs"]


def found(name):
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.rand((200_000, 1), generator=generator, dtype=torch.float64) - 2
    return information(TEMPERED, Gate(activation=name, tempered=True), x, generator)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "gelu"])
def test_independent_activations_have_information_in_every_direction(name):
    one = found(name)
    assert float(one.eigenvalues[0]) == pytest.approx(KNOWN[name]["min_eig"], rel=0.05)
    assert float(one.eigenvalues[1]) == pytest.approx(KNOWN[name]["second"], rel=0.05)
    assert float(one.eigenvalues[-1]) == pytest.approx(KNOWN[name]["max"], rel=0.05)
    assert one.null == []


@pytest.mark.parametrize(("name", "directions"), [("identity", 2), ("relu", 1)])
def test_dependent_ones_have_not_and_the_direction_is_named(name, directions):
    one = found(name)
    assert len(one.null) == directions
    assert float(one.eigenvalues[-1]) == pytest.approx(KNOWN[name]["max"], rel=0.05)
    scale = torch.zeros(len(one.names), dtype=torch.float64)
    for number, value in {"beta0_1": 0.3, "beta1_1": 2.0, "beta1_2": -1.0, "tau": 0.8}.items():
        scale[one.names.index(number)] = value
    scale /= scale.norm()
    null = one.directions[:, :directions]
    torch.testing.assert_close(null @ (null.T @ scale), scale, atol=1e-6, rtol=0)
    assert all("tau" in text or "beta1" in text for text in one.null)


def test_fixing_the_superfluous_slope_leaves_the_scale():
    one = found("identity")
    assert len(one.without(one.names.index("beta1_2")).null) == 1


def test_scores_are_the_gradient_of_the_likelihood():
    gate = Gate(activation="tanh", tempered=True)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand((30, 1), generator=generator, dtype=torch.float64)
    y = sample(x, TEMPERED, gate, generator)
    theta = packed(TEMPERED)
    numeric = []
    for i in range(len(theta)):
        step = torch.zeros_like(theta)
        step[i] = 1e-6
        ends = [log_likelihood(x, y, unpacked(theta + s, TEMPERED), gate) for s in (step, -step)]
        numeric.append((ends[0] - ends[1]) / 2e-6)
    torch.testing.assert_close(
        scores(x, y, TEMPERED, gate).sum(0), torch.stack(numeric), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("name", "count"), [("identity", 1), ("relu", 1), ("gelu", 0)])
def test_the_step_counts_directions_without_information(name, count, caplog):
    result = apply(None, {}, MoEFisher(activation=name, rows=20_000), Context())
    assert result.metrics["null_directions"].value == count
    assert ("no information in the direction" in caplog.text) == bool(count)

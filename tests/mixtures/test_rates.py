"""The steps of the studies: what they record, resuming, and settings refused."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from methods.mixtures import rates, splitting
from methods.mixtures.params import MoERates, MoESplit
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context

SMALL = {"sizes": [100, 200, 400], "replicates": 4}


def run(params, seed=0, checkpoint=None):
    context = Context(seed=seed, checkpoint=checkpoint or Checkpoint(None))
    return rates.apply(None, {}, params, context), context


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"design": "top2-3", "extra": 1, "more_active": 1},
        {"design": "temperature-2", "activation": "tanh"},
        {"start": "independent", "restarts": 2},
    ],
)
def test_every_replicate_is_recorded_and_losses_fall(settings):
    result, context = run(MoERates(**SMALL, **settings))
    assert len(result.records) == 12
    assert [row["n"] for row in context.history] == [100, 200, 400]
    assert {"slope/loss", "slope/loss_median", "slope/hellinger", "converged"} <= set(
        result.metrics
    )
    assert ("slope/tau_error" in result.metrics) == ("activation" in settings)
    assert result.metrics["last/hellinger"].n == 4
    assert result.metrics["slope/hellinger"].value < 0
    assert context.history[-1]["loss_mean"] == pytest.approx(
        np.mean([row["loss"] for row in result.records if row["n"] == 400])
    )


def test_how_many_are_fitted_together_changes_nothing_that_matters(monkeypatch):
    together, _ = run(MoERates(**SMALL))
    monkeypatch.setattr(rates, "ROWS_AT_ONCE", 100)
    alone, _ = run(MoERates(**SMALL))
    for ours, theirs in zip(together.records, alone.records, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-9)


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    whole, _ = run(MoERates(**SMALL))
    sizes = []
    one_size = rates._one_size

    def killed(n, *rest):
        if len(sizes) == 2:
            raise KeyboardInterrupt
        sizes.append(n)
        return one_size(n, *rest)

    monkeypatch.setattr(rates, "_one_size", killed)
    with pytest.raises(KeyboardInterrupt):
        run(MoERates(**SMALL), checkpoint=Checkpoint(tmp_path))
    monkeypatch.setattr(rates, "_one_size", one_size)
    resumed, _ = run(MoERates(**SMALL), checkpoint=Checkpoint(tmp_path))
    assert resumed.records == whole.records
    assert resumed.metrics == whole.metrics


def test_the_published_start_hides_that_one_active_expert_teaches_the_gate_nothing():
    at_truth, _ = run(MoERates(design="top1-2", **SMALL))
    independent, _ = run(MoERates(design="top1-2", start="independent", **SMALL))
    assert at_truth.metrics["last/hellinger"].value < 0.1
    assert independent.metrics["last/hellinger"].value > 0.2


def test_an_unidentified_temperature_is_said(caplog):
    run(MoERates(design="temperature-2", **SMALL))
    assert "the temperature is not identified" in caplog.text


def test_splitting_needs_as_many_as_the_theorem_says():
    result = splitting.apply(None, {}, MoESplit(pieces=2, active=2), Context())
    assert result.metrics["needed"].value == 3
    assert result.metrics["hellinger/limit"].value > 0.1
    whole = splitting.apply(None, {}, MoESplit(pieces=1, active=2), Context())
    assert whole.metrics["hellinger/limit"].value == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"more_active": 1}, "every expert answers"),
        ({"design": "top2-3", "more_active": 2}, "4 active of 3 experts"),
        ({"sizes": [100, 100, 200]}, "sizes must grow"),
        ({"sizes": [100, 200, 300], "fit_from": 200}, "fewer than three"),
        ({"activation": "tanh"}, "belongs to the design temperature-2"),
        ({"replicates": 1}, "greater than or equal to 2"),
    ],
)
def test_settings_that_cannot_work(settings, words):
    with pytest.raises(ValidationError, match=words):
        MoERates(**settings)


def test_distances_must_shrink():
    with pytest.raises(ValidationError, match="distances must fall"):
        MoESplit(distances=[0.01, 0.02])
    assert torch.get_default_dtype() == torch.float32

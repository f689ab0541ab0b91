"""What a study may say, and how the rest is refused."""

import pytest
from pydantic import ValidationError

from methods.quantize_aware.params import OFQ, Anneal
from methods.study.errors import RetrofitError
from methods.study.expansion import plan


def test_the_defaults_are_the_papers():
    ofq = OFQ()
    assert (ofq.bits, ofq.weights, ofq.query_key, ofq.edge_bits) == (2, "statsq", "published", 8)
    assert (ofq.epochs, ofq.batch, ofq.learning_rate, ofq.final_rate) == (300, 560, 5.47e-4, 1e-5)
    assert ofq.warm_up * ofq.epochs == pytest.approx(5, abs=0.02)
    anneal = Anneal()
    assert (anneal.boundary, anneal.epochs, anneal.learning_rate) == (0.005, 25, 1e-5)
    assert anneal.learning_rate == ofq.final_rate


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (OFQ, {"bits": 1}, "1 bit: StatsQ's grid is broken there"),
        (OFQ, {"activation_bits": 1}, "1 bit"),
        (OFQ, {"bits": 16}, "16 bits: allowed are 2 to 8, or 32"),
        (OFQ, {"bits": 32, "activation_bits": 4}, "leave out activation_bits"),
        (OFQ, {"weights": "stats"}, "statsq"),
        (OFQ, {"query_keys": "plain"}, "did you mean 'query_key'"),
        (OFQ, {"stabilise": "freeze"}, "the product of query and key is no weight"),
        (OFQ, {"stabilise": "dampen", "bits": 32}, "nothing is rounded with 32 bits"),
        (
            OFQ,
            {"stabilise": "freeze", "query_key": "plain", "freeze_above": (2.0, 0.1)},
            "frequenc",
        ),
        (OFQ, {"final_rate": 0.1}, "above learning_rate"),
        (Anneal, {"boundary": 0.5}, "near two thresholds at once"),
        (Anneal, {"boundary": -0.1}, "greater than or equal to 0"),
        (
            Anneal,
            {"boundary": None, "product": "published_code"},
            "says nothing without a boundary",
        ),
    ],
)
def test_refused_with_a_reason(kind, settings, message):
    with pytest.raises(ValidationError, match=message):
        kind(**settings)


def test_a_base_that_cannot_work_is_refused_when_planning():
    with pytest.raises(RetrofitError, match="language model"):
        OFQ().check_base({"model_type": "llama"})
    with pytest.raises(RetrofitError, match="quantised already"):
        OFQ().check_base({"quantized": {"a": {}}})
    OFQ().check_base({"architecture": "vit"})


@pytest.mark.parametrize("tier", ["quick", "full", "paper"])
def test_every_tier_of_the_study_can_be_planned_and_shares_its_prefixes(tier):
    found = plan("configs/studies/ofq.yaml", tier, without={})
    runs = [run for run in found.runs().values() if run.kind == "method"]
    bases = [run for run in runs if run.spec["params"]["method"] == "train_classifier"]
    assert len(bases) == len({(cell.setting, cell.seed) for cell in found.cells})
    annealed = [run for run in runs if run.spec["params"]["method"] == "anneal"]
    assert len({run.upstream["base"].name for run in annealed}) < len(annealed)

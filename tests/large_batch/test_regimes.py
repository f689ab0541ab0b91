"""Learning-rate scaling and regime adaptation, against the published regimes."""

import json
import math
from pathlib import Path

import pytest

from methods.large_batch import regimes
from methods.large_batch.regimes import Regime

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "large_batch" / "gbn_regimes.json").read_text()
)
PUBLISHED = {
    "mnist_f1": Regime({0: 0.1, 10: 0.01, 20: 1e-3, 30: 1e-4}, 50),
    "resnet44_cifar10": Regime({0: 0.1, 81: 0.01, 122: 1e-3, 164: 1e-4}, 200),
    "wresnet_cifar": Regime({0: 0.1, 60: 0.02, 120: 0.004, 140: 1e-4}, 200),
    "cifar_shallow(C1)": Regime({0: 1e-3, 60: 1e-2, 120: 1e-3, 180: 1e-4}, 200),
    "alexnet_imagenet": Regime({0: 0.01, 10: 0.005, 15: 1e-3, 20: 5e-4, 25: 1e-4}, 50),
}


@pytest.mark.parametrize("case", sorted(GOLDEN))
def test_adapted_regimes_are_the_published_ones(case):
    name, batch, reference = case.split("|")
    batch, reference = int(batch.removeprefix("B=")), int(reference.removeprefix("ref="))
    scaled = regimes.scale_rates(PUBLISHED[name], batch, reference, "sqrt")
    expected = {int(epoch): rate for epoch, rate in GOLDEN[case]["lr_only"].items()}
    assert scaled.rates == pytest.approx(expected, abs=5e-9)
    adapted = regimes.adapt(scaled, batch, reference)
    expected = {int(epoch): rate for epoch, rate in GOLDEN[case]["lr+RA"].items()}
    assert adapted.rates == pytest.approx(expected, abs=5e-9)
    assert adapted.epochs == GOLDEN[case]["epochs_RA"]
    assert all(isinstance(epoch, int) for epoch in adapted.rates)


def test_rules_change_nothing_in_place():
    regime = PUBLISHED["mnist_f1"]
    before = (dict(regime.rates), regime.epochs)
    first = regimes.scale_rates(regime, 4096, 128, "sqrt")
    assert regimes.scale_rates(regime, 4096, 128, "sqrt") == first
    assert regimes.adapt(regime, 4096, 128) == regimes.adapt(regime, 4096, 128)
    assert (regime.rates, regime.epochs) == before


def test_rate_factors():
    assert regimes.rate_factor(4096, 128, "sqrt") == pytest.approx(math.sqrt(32))
    assert regimes.rate_factor(4096, 128, "linear") == 32
    assert regimes.rate_factor(4096, 128, "none") == 1
    with pytest.raises(ValueError, match="allowed are none, sqrt, linear"):
        regimes.rate_factor(4096, 128, "cubic")


@pytest.mark.parametrize(("samples", "batch", "reference"), [(9000, 1024, 64), (50_000, 2048, 128)])
def test_updates_are_those_of_the_small_batch(samples, batch, reference):
    small = PUBLISHED["resnet44_cifar10"]
    per_small, per_large = math.ceil(samples / reference), math.ceil(samples / batch)
    matched = regimes.matched_updates(samples, small, batch, reference)
    assert abs(matched.epochs * per_large - small.epochs * per_small) <= per_large
    for start, stretched in zip(small.rates, matched.rates, strict=True):
        assert isinstance(stretched, int)
        assert abs(stretched * per_large - start * per_small) <= per_large
    published = regimes.adapt(small, batch, reference)
    ratio = published.epochs * per_large / (small.epochs * per_small)
    assert 1 <= ratio < 1 + reference * per_large / samples  # only incomplete batches add updates


def test_rates_hold_from_their_epoch_on():
    regime = regimes.stepped(0.1, [2, 4], 0.1, epochs=6)
    rates = [regime.rate(epoch) for epoch in range(6)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert regime.first_phase == 2
    assert regimes.stepped(0.1, [], 0.1, epochs=6).first_phase == 6


def test_impossible_regimes_are_refused():
    with pytest.raises(ValueError, match="no rate for epoch 0"):
        Regime({1: 0.1}, 5)
    with pytest.raises(ValueError, match="at least 1"):
        Regime({0: 0.1}, 0)

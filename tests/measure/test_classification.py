"""Accuracy, cross-entropy and calibration of classifiers."""

import numpy as np
import pytest
import torch

from methods.data.kinds import Images
from methods.measure.classification import expected_calibration_error, measure, score
from methods.measure.params import Classification
from methods.models.networks.network import Network, build
from methods.run.context import Context


def test_scores_of_known_logits():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]))
    found = score(logits, torch.tensor([0, 0, 2]), bins=1)
    assert found["accuracy"].value == pytest.approx(2 / 3)
    assert found["accuracy"].stderr == pytest.approx(np.std([1, 0, 1], ddof=1) / 3**0.5)
    expected = -np.log([0.7, 0.1, 0.4]).mean()
    assert found["cross_entropy"].value == pytest.approx(expected, rel=1e-6)
    assert found["calibration_error"].value == pytest.approx(abs(1.9 / 3 - 2 / 3))


def test_calibrated_predictions_have_an_error_that_vanishes_with_the_sample():
    rng = np.random.default_rng(0)
    errors = []
    for n in (1000, 100_000):
        confidence = rng.uniform(0.3, 1, n)
        errors.append(expected_calibration_error(confidence, rng.uniform(size=n) < confidence))
    assert errors[1] < 0.01 < errors[0]
    # Binned batch by batch, as some published code does, the same predictions look bad.
    batches = [
        expected_calibration_error(c, h)
        for c, h in zip(
            confidence.reshape(-1, 50)[:400],
            (rng.uniform(size=n) < confidence).reshape(-1, 50)[:400],
            strict=True,
        )
    ]
    assert np.mean(batches) > 0.1


def test_the_measure_names_further_sets_and_honours_their_limit():
    module = build("fully_connected", {"inputs": 16, "classes": 3, "width": 4}, 0).eval()
    network = Network(module, "fully_connected", {}, [0.5], [0.25], list("abc"))
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 256, (40, 4, 4), dtype=np.uint8), rng.integers(0, 3, 40)
    first, second = (Images(f"{name}.test", x, y, list("abc")) for name in ("one", "two"))
    object.__setattr__(second, "options", {"limit": 10})
    found = measure(network, {"test": [first, second]}, Classification(batch=7), Context())
    assert set(found) == {
        name + facet
        for name in ("accuracy", "cross_entropy", "calibration_error")
        for facet in ("", "/two.test")
    }
    right = (network.logits(x).argmax(1).numpy() == y).mean()
    assert found["accuracy"].value == pytest.approx(right)
    assert found["accuracy/two.test"].n == 10

"""The declared EfficientNet-Lite0 on real photographs, where both were fetched before."""

from pathlib import Path

import pytest

from methods.data import sources
from methods.data.loading import load
from methods.measure.classification import accuracy
from methods.models.networks import published
from methods.models.params import ModelDeclaration
from methods.study import strict_yaml

ROOT = Path(__file__).resolve().parents[3]


def test_eighteen_of_twenty_photographs_are_recognised():
    known = ModelDeclaration.model_validate(
        strict_yaml.load(ROOT / "configs/models/efficientnet-lite0.yaml").value
    )
    [file] = known.files.values()
    weights = sources.cache() / file.sha256
    if not weights.is_file() or not (ROOT / "data/imagenet-samples/dataset.json").is_file():
        pytest.skip("weights or photographs were not fetched here")
    network = published.assemble("efficientnet-lite0", known.config, weights)
    assert accuracy(network, load("imagenet-samples.whole", ROOT / "data")) == 18 / 20

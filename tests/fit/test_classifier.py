"""The classifier's schedule, decay groups and loss against their formulas."""

import math

import numpy as np
import pytest
import torch

from methods.data.kinds import Images
from methods.fit.batches import Batches, shift_and_flip, standardise, stream
from methods.fit.classifier import decayed, factor, loss_of
from methods.fit.params import ClassifierTraining
from methods.models.networks.network import Network, build
from methods.run.context import Context

SIZES = {"channels": 1, "classes": 3, "image": 8, "width": 6, "depth": 1, "heads": 2}
RNG = np.random.default_rng(0)
IMAGES = Images(
    "x", RNG.integers(0, 256, (20, 8, 8), dtype=np.uint8), RNG.integers(0, 3, 20), list("abc")
)


def vit():
    return Network(build("vit", SIZES, seed=0), "vit", SIZES, [0.4], [0.3], list("abc"))


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine():
    rates = [factor(step, 100, 0.1) for step in range(100)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 45 / 90)))
    assert 0.01 < rates[99] < 0.011
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert factor(0, 5, 0.0) == 1.0


def test_only_matrices_and_filters_decay():
    module = vit().module
    first, second = decayed(module, 0.05)
    names = {id(p): n for n, p in module.named_parameters()}
    decaying = {names[id(p)] for p in first["params"]}
    assert (first["weight_decay"], second["weight_decay"]) == (0.05, 0.0)
    assert "layers.0.attention.q_proj.weight" in decaying
    assert "embedding.patch.weight" in decaying
    assert not any("norm" in n or "bias" in n or "token" in n or "position" in n for n in decaying)
    assert len(first["params"]) + len(second["params"]) == len(names)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("augment", [False, True])
def test_the_loss_is_smoothed_cross_entropy_on_the_batch_of_the_step(smoothing, augment):
    network, context = vit(), Context(seed=3)
    training = ClassifierTraining(label_smoothing=smoothing, augment=augment, shift=1)
    batches = Batches(20, 6, 5)
    loss = loss_of(network, IMAGES, batches, training, context)(network.module, 4)
    rows = batches.indices(4)
    x = torch.from_numpy(IMAGES.x)[rows][:, None]
    if augment:
        x = shift_and_flip(x, stream(context.seed_for("augmentation"), 4), pad=1)
    logs = network.module(standardise(x, [0.4], [0.3])).log_softmax(1)
    target = torch.full((6, 3), smoothing / 3)
    target[torch.arange(6), torch.from_numpy(IMAGES.y)[rows]] += 1 - smoothing
    torch.testing.assert_close(loss, -(target * logs).sum(1).mean())

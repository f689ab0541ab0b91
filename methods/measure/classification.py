"""How well a network classifies images it was not trained on: accuracy, cross-entropy, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from methods.fit.batches import subset
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.data.kinds import Images
    from methods.measure.params import Classification
    from methods.models.networks.network import Network
    from methods.run.context import Context


def measure(
    model: Network, data: dict[str, list[Any]], params: Classification, context: Context
) -> dict[str, Metric]:
    """`accuracy`, `cross_entropy` and `calibration_error` on each set of the role `test`.

    The first set's metrics have the plain names, so that settings with different data share a
    column; those of further sets carry the set's name (`accuracy/fashion-mnist.test`).
    """
    model.module.to(context.device)
    found: dict[str, Metric] = {}
    for number, images in enumerate(data["test"]):
        facet = f"/{images.name}" if number else ""
        used = subset(len(images.y), getattr(images, "options", {}).get("limit"))
        logits = model.logits(images.x[used], params.batch)
        scores = score(logits, torch.from_numpy(images.y)[used], params.bins)
        found.update({name + facet: metric for name, metric in scores.items()})
    return found


def score(logits: Tensor, y: Tensor, bins: int = 15) -> dict[str, Metric]:
    """The three metrics of logits [n, classes] against int64 labels [n].

    The standard errors are those of the mean over test items; they say nothing about training
    again with another seed.
    """
    n = len(y)
    probabilities = logits.double().softmax(1)
    confidence, predicted = probabilities.max(1)
    correct = (predicted == y).double()
    losses = functional.cross_entropy(logits.double(), y, reduction="none")
    accuracy = float(correct.mean())
    error = expected_calibration_error(confidence.numpy(), correct.numpy(), bins)
    return {
        "accuracy": Metric(accuracy, _stderr(correct), n, "", True),
        "cross_entropy": Metric(float(losses.mean()), _stderr(losses), n, "nats", False),
        "calibration_error": Metric(error, None, n, "", False),
    }


def accuracy(network: Network, images: Images, batch: int = 1000) -> float:
    """The fraction of images whose largest logit is their class."""
    predicted = network.logits(images.x, batch).argmax(1)
    return float((predicted == torch.from_numpy(images.y)).double().mean())


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy, [n] and [n] to a number in 0..1.

    Bins hold equally many items of the whole set. (Binning each evaluation batch and averaging,
    as some published code does, reports about .15 on perfectly calibrated data.)
    """
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [abs(confidence[part].mean() - correct[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(order))


def _stderr(values: Tensor) -> float | None:
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else None

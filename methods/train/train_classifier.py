"""An image classifier trained from scratch, so that studies have a vision base of their own.

*Fidelity.* No paper: see :mod:`methods.fit.classifier` for the recipe. The last update counts, not
the best epoch; validation images choose nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from methods.fit.classifier import train
from methods.fit.history import accuracy_metric
from methods.fit.images import training_and_validation
from methods.models.networks.network import Network, fresh
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.run.context import Context
    from methods.train.params import TrainClassifier


def apply(
    base: None, data: dict[str, list[Any]], params: TrainClassifier, context: Context
) -> Network:
    """A network trained on the first set of the role ``train`` (as many images as its `limit` says).

    Metrics: `updates`, and `validation_accuracy` where there are validation images: the first set of
    the role ``validation``, or the share held out. The history has that accuracy after each epoch.

    Raises RetrofitError: a set without images, validation images of another kind, sizes that do not
    fit the images, a loss that is not finite.
    """
    training, validation = training_and_validation(
        data, params.validation, "train_classifier", context
    )
    network = fresh(training, params.network.model_dump(), context.seed_for("initial weights"))
    updates = train(network, training, params, context, validation)
    network.metrics = {"updates": Metric(updates, unit="updates")}
    network.metrics |= accuracy_metric(network, validation)
    return network

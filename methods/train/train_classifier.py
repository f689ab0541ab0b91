"""An image classifier trained from scratch, so that studies have a vision base of their own.

*Fidelity.* No paper: see :mod:`methods.fit.classifier` for the recipe. The last update counts, not
the best epoch; validation images choose nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from methods.data.formats import Images
from methods.fit.batches import held_out, moments, subset
from methods.fit.classifier import train
from methods.measure.classification import accuracy
from methods.models.networks.network import Network, arguments, build
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

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
    training = _images(data["train"][0], "train")
    validation = None
    if data.get("validation"):
        validation = _images(data["validation"][0], "validation")
        if (validation.x.shape[1:], validation.classes) != (training.x.shape[1:], training.classes):
            raise RetrofitError(
                f"{validation.name} has other sizes or classes of images than {training.name}"
            )
    elif params.validation:
        count = round(params.validation * len(training.y))
        kept, out = held_out(len(training.y), count, context.seed_for("validation split"))
        training, validation = _chosen(training, kept), _chosen(training, out)
    network = fresh(training, params.network.model_dump(), context)
    updates = train(network, training, params, context, validation)
    network.metrics = {"updates": Metric(updates, unit="updates")}
    if validation is not None and len(validation.y):
        network.metrics["validation_accuracy"] = Metric(
            accuracy(network, validation), n=len(validation.y), higher_is_better=True
        )
    return network


def fresh(images: Images, sizes: dict[str, Any], context: Context) -> Network:
    """A network with random weights for images of this kind, standardised by their own moments."""
    built = arguments(sizes, images.x.shape[1:], len(images.classes))
    module = build(sizes["architecture"], built, context.seed_for("initial weights"))
    mean, std = moments(images.x)
    return Network(module, sizes["architecture"], built, mean, std, images.classes)


def _images(content: Any, role: str) -> Images:
    """The images of a set, as many as its options say."""
    name = getattr(content, "name", content)
    if not hasattr(content, "x") or content.x.ndim not in (3, 4):
        raise RetrofitError(f"train_classifier: {role} needs images, and {name} has none")
    limit = (getattr(content, "options", None) or {}).get("limit")
    return _chosen(content, subset(len(content.y), limit))


def _chosen(images: Any, rows: Any) -> Images:
    return Images(images.name, images.x[rows.numpy()], images.y[rows.numpy()], images.classes)

"""An ordinary network trained from scratch by the recipe of its grown rivals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from methods.data.kinds import Images
from methods.grow.network import GrowingNetwork
from methods.grow.params import WIDTHS
from methods.grow.recipe import channels_first, describe, images_of, train
from methods.models.networks import network

if TYPE_CHECKING:
    from methods.grow.params import FromScratch
    from methods.run.context import Context


def apply(
    base: None, data: dict[str, list[Any]], params: FromScratch, context: Context
) -> GrowingNetwork:
    """A network trained on the first set of the role ``train``; the last update counts.

    Metrics: `training_tflop`, `forward_mflop`, `updates`, `parameters`, `validation_accuracy`.
    Raises RetrofitError as `images_of` and `train` do.
    """
    training, validation = images_of(data, params, context)
    sizes = params.network.model_dump()
    if params.size == "small":
        sizes |= {name: sizes[name] // 2 for name in WIDTHS[sizes["architecture"]]}
    found = fresh(training, sizes, context)
    train(found, training, validation, params, context, epochs=params.all_epochs)
    describe(found, validation)
    return found


def fresh(images: Images, sizes: dict[str, Any], context: Context) -> GrowingNetwork:
    """A network with random weights for images of this kind, standardised by their own moments."""
    plain = network.fresh(images, sizes, context.seed_for("initial weights"))
    notes = {"image": list(channels_first(images))}
    return GrowingNetwork(**{**vars(plain), "notes": notes})

"""MixtureGrowth before growth: two small networks, mixtures of templates, trained one after the other.

Pham, Teterwak, Nelson, Plummer, "MixtureGrowth: growing neural networks by recombining learned
parameters", WACV 2024 (arXiv 2311.04251; code a2dad07).

Fidelity
--------
From the paper: the template form (:mod:`methods.grow.mixing`), two members on two sets of templates,
each trained by itself with SGD and its own whole schedule, and its own batch normalisations;
coefficients take no weight decay; layers of one shape may share their templates.

Chosen: the members' classifiers and first layers are of templates too, as in the published network
for CIFAR; a bank of shared templates has as many as its layers would have had apart (the published
ImageNet bank is a hand-made table); members see different batches.

Avoided defects of the published code, the first two kept as ``initialisation: published_code``:

1. Templates are drawn with the fan-in of the whole stack, too small by the root of their outputs.
2. Coefficients are rows of one matrix whose columns are orthonormal, so they are shorter than 1.
3. A set that both members share lets the second member's training overwrite the first: refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from methods.grow.network import GrowingNetwork, in_template_form
from methods.grow.recipe import channels_first, describe, images_of, train
from methods.grow.scratch import fresh

if TYPE_CHECKING:
    from methods.grow.params import MixtureMembers
    from methods.run.context import Context


def apply(
    base: None, data: dict[str, list[Any]], params: MixtureMembers, context: Context
) -> GrowingNetwork:
    """Both members, trained; the logits of what is left are the sum of theirs.

    Metrics: those of `from_scratch`, and `coefficients`, how many of the parameters are alphas.
    Raises RetrofitError as `images_of`, `train` and :class:`methods.grow.mixture.Mixture` do.
    """
    training, validation = images_of(data, params, context)
    network = fresh(training, params.network.model_dump(), context)
    network.notes["mixture"] = {
        "image": list(channels_first(training)),
        "templates": params.templates,
        "sets": params.sets,
        "share": params.share,
        "initialisation": params.initialisation,
        "grown": False,
    }
    network.module = in_template_form(
        network.module, network.notes["mixture"], context.generator("templates")
    )
    train(network, training, validation, params, context, epochs=params.epochs, parts=(0, 1))
    network.module.use("sum")
    describe(network, validation)
    return network

"""MixtureGrowth: two small networks become one of twice their width, which is trained on.

Pham, Teterwak, Nelson, Plummer, "MixtureGrowth: growing neural networks by recombining learned
parameters", WACV 2024 (arXiv 2311.04251; code a2dad07). See :mod:`methods.grow.mixing` for the grown
weight and :mod:`methods.grow.coefficients` for the new blocks.

Fidelity
--------
From the paper: the trained members on the diagonal, to the bit; new blocks mix the same templates by
one of five policies; normalisations with their statistics side by side; templates and all
coefficients train on, in cycles of cosines. Growth does not preserve a function unless the policy is
zero, and then the grown logits are the sum of the members' (their mean would need half the
classifier).

With two templates in each set and the default sets, W_0 and W_2 are two mixtures of two templates: as
long as their coefficients are independent, templates and blocks are the same numbers in another basis.
The grown network can then become any network of its size, and what the template form changes is how
far a step of SGD moves each block.

Chosen: SGD starts without momentum; the published code carries that of the second member over. The
result is folded into ordinary weights, which give the same logits to the bit.

Avoided defects of the published code:

1. Its default policy changes alpha_3 alone and compares coefficients of different templates; with the
   default two templates nothing is at right angles to anything. ``policy: published_code`` keeps it.
2. With the shipped ImageNet bank, whose sets are of unequal size, that policy raises.
3. The new normalisations start in training mode whatever the network's was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from methods.grow.mixture import Mixture
from methods.grow.network import GrowingNetwork
from methods.grow.recipe import grown_from, images_of, train_grown
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.grow.params import MixtureGrowth
    from methods.run.context import Context


def apply(
    base: Any, data: dict[str, list[Any]], params: MixtureGrowth, context: Context
) -> GrowingNetwork:
    """The members of ``base`` joined, and trained for ``epochs``.

    Metrics: those of `from_scratch`, `accuracy_at_growth` on the validation images before the first
    update, and with `keep_templates` the number of `coefficients`.
    Raises RetrofitError: a base that is no pair of members, a policy that does not suit its sets, and
    as `images_of` and `train` do.
    """
    module = getattr(base, "module", None)
    if not isinstance(module, Mixture) or module.has_grown:
        state = "has grown already" if isinstance(module, Mixture) else "is no pair of members"
        raise RetrofitError(
            f"mixture_growth joins what mixture_members leaves; this base {state} "
            "(an ordinary network grows by `widen`)"
        )
    training, validation = images_of(data, params, context)
    network = grown_from(base, training)
    module.requires_grad_(True)
    module.grow(params.policy, params.noise, context.generator("growth"))
    network.notes["mixture"] = {**network.notes["mixture"], "grown": True}

    def fold() -> None:
        if not params.keep_templates:
            network.module = module.dense().eval()
            del network.notes["mixture"]

    return train_grown(network, training, validation, params, context, fold)

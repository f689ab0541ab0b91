"""Grow a trained network to twice its width by a baseline's rule, and train it on.

*Fidelity.* See :mod:`methods.grow.widen` for the rules. The recipe is that of the other ways to grow,
so that they differ in how the large network starts and in nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from methods.grow.mixture import Mixture
from methods.grow.network import GrowingNetwork
from methods.grow.params import WIDTHS
from methods.grow.recipe import channels_first, grown_from, images_of, train_grown
from methods.grow.widen import widen
from methods.models.networks.network import build
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.grow.params import Widen
    from methods.run.context import Context


def apply(base: Any, data: dict[str, list[Any]], params: Widen, context: Context) -> GrowingNetwork:
    """The network of ``base`` at twice its width, trained for ``epochs``.

    Metrics: those of `from_scratch`, and `accuracy_at_growth` on the validation images before the
    first update. Raises RetrofitError: a base that is no single network, an architecture without a
    width, and as `images_of` and `train` do.
    """
    if isinstance(getattr(base, "module", None), Mixture):
        raise RetrofitError("widen grows one network; two members join by `mixture_growth`")
    names = WIDTHS.get(getattr(base, "architecture", None))
    if names is None:
        raise RetrofitError(
            f"widen knows no width of {getattr(base, 'architecture', type(base).__name__)}; "
            f"allowed: {', '.join(WIDTHS)}"
        )
    if getattr(base, "quantized", None):
        raise RetrofitError("widen grows dense weights, and this network's are quantised")
    training, validation = images_of(data, params, context)
    network = grown_from(base, training)
    network.arguments = base.arguments | {name: 2 * base.arguments[name] for name in names}
    wide = build(base.architecture, network.arguments, context.seed_for("growth"))
    example = torch.randn(2, *channels_first(training), generator=context.generator("example"))
    network.module = widen(
        base.module.cpu(),
        wide,
        params.rule,
        context.generator("shares and mappings"),
        example=example,
        noise=params.noise,
    ).to(context.device)
    return train_grown(network, training, validation, params, context)

"""SUPRA (Mercat et al., 2405.06640) as a comparison in Liger's frame.

*Fidelity.* As published: ReLU features of all heads' channels together (a map of its own for shared
keys), rotation after the map, ALiBi's slopes as fixed decays, every head's output normalised without
parameters, no window. The published recipe trains all weights on 20 to 100 billion tokens; here
adapters and feature maps are trained on the study's budget, so the comparison is of starting points
more than of ends. Chosen here: the maps start as the identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.linearize.liger import convert, finish

if TYPE_CHECKING:
    from methods.linearize.params import Supra
    from methods.models.language import LanguageModel
    from methods.run.context import Context


def apply(base: LanguageModel, data: dict, params: Supra, context: Context) -> LanguageModel:
    """The linearised and tuned model. Raises RetrofitError as `convert` and `tune` do."""
    model = convert(base, params, context, mechanism="supra")
    return finish(base, model, data, params, context)

"""LoLCATs (Zhang et al., 2410.10254) as a comparison in Liger's frame.

*Fidelity.* As published: one learned map for each query head, rotation before the map, shared keys
repeated first, one normalisation of window and rest, window factor starting at sigmoid^-1(0.1),
attention transfer with 1000 times the squared error of the heads' outputs, then adapters on query,
key, value and output. The window slides ("sw"); the published terraced one is left out. Chosen here:
maps start as the identity; the second stage trains the maps too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.linearize.liger import added_names, convert, finish
from methods.linearize.transfer import transfer

if TYPE_CHECKING:
    from methods.linearize.params import Lolcats
    from methods.models.language import LanguageModel
    from methods.run.context import Context


def apply(base: LanguageModel, data: dict, params: Lolcats, context: Context) -> LanguageModel:
    """Both stages. Raises RetrofitError as `convert` and `tune` do."""
    model = convert(base, params, context, mechanism="lolcats", feature_dim=params.feature_dim)
    transfer(base, model, data, params, context, added_names(model))
    return finish(base, model, data, params, context)

"""The networks of a replicate before training: what differs between arms, and what they share.

Every random stream is named by its purpose and the replicate's number, and the data do not enter the name: variants
of a study, and more or fewer replicates, share the same draws.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from methods.dynamics.rich_lazy import initial, structures
from methods.dynamics.rich_lazy.network import Weights
from methods.run.seeds import derive
from methods.study.errors import RetrofitError, choices

if TYPE_CHECKING:
    from methods.dynamics.rich_lazy.memory import Shape
    from methods.dynamics.rich_lazy.params import RichLazy
    from methods.dynamics.rich_lazy.structures import Connectome
    from methods.run.context import Context

STRUCTURES = ("gaussian", "dale", "cell_types", "chain", "connectome")


def stream(context: Context, purpose: str, replicate: int) -> np.random.Generator:
    """Random numbers of one replicate for one purpose."""
    return np.random.default_rng(derive(f"rich_lazy {purpose} replicate {replicate}", context.seed))


def structured(params: RichLazy, graph: Connectome | None, rng: np.random.Generator) -> np.ndarray:
    """[N, N] of the structure, on its own scale.  RetrofitError for an unknown one, or a connectome without data."""
    match params.structure:
        case "dale":
            return structures.dale(params.size, rng, params.inhibitory, params.balanced)
        case "cell_types":
            return structures.cell_types(params.size, rng)
        case "chain":
            return structures.chain(params.size, rng, params.tau)
        case "connectome" if graph is not None:
            return structures.connectome(graph, params.size, rng)
        case "connectome":
            raise RetrofitError(
                "structure: connectome needs a connectome as data role 'train', for example c-elegans.chemical"
            )
        case "gaussian":
            return initial.gaussian(params.size, params.gain, rng)
    raise RetrofitError(
        f"there is no structure '{params.structure}'; {choices(params.structure, STRUCTURES)}"
    )


def recurrent(
    params: RichLazy, graph: Connectome | None, replicate: int, context: Context
) -> np.ndarray:
    """Initial recurrent weights of one replicate, float64 [arms, N, N] in the order of `params.arms`."""
    null = initial.gaussian(params.size, params.gain, stream(context, "recurrent", replicate))
    own = null
    if params.structure != "gaussian":
        rng = stream(context, f"structure {params.structure}", replicate)
        own = initial.matched(structured(params, graph, rng), null, params.normalize)
    if params.numbers is not None:
        low = [initial.truncated(own, rank) for rank in params.numbers]
        return initial.matched(np.stack(low), null, params.normalize)
    found = {"own": own, "gaussian": null}
    if "shuffled" in params.nulls:
        mixed = structures.shuffled(own, stream(context, "shuffle", replicate))
        found["shuffled"] = initial.matched(mixed, null, params.normalize)
    return np.stack([found[name] for name in params.arms])


def starts(
    params: RichLazy,
    graph: Connectome | None,
    replicates: range,
    shape: Shape,
    context: Context,
) -> Weights:
    """All networks of some replicates, float32, replicate by replicate and arm by arm.

    Input and output weights as torch's linear layers draw them, U(-1, 1) / sqrt(inputs of the layer).
    """
    size, arms = params.size, len(params.arms)
    parts: list[list[np.ndarray]] = [[], [], []]
    for replicate in replicates:
        rng = stream(context, "input and output", replicate)
        w_in = rng.uniform(-1.0, 1.0, (size, shape.inputs)) / np.sqrt(shape.inputs)
        w_out = rng.uniform(-1.0, 1.0, (shape.outputs, size)) / np.sqrt(size)
        parts[0].append(np.broadcast_to(w_in, (arms, *w_in.shape)))
        parts[1].append(recurrent(params, graph, replicate, context))
        parts[2].append(np.broadcast_to(w_out, (arms, *w_out.shape)))
    return Weights(*(torch.from_numpy(np.concatenate(part).astype(np.float32)) for part in parts))

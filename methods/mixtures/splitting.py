"""The number of active experts that an over-specified top-K mixture needs (2309.13850, Theorem 2), by construction.

Fidelity
--------
Paper: with fewer active experts than the K largest Voronoi cells hold, the density estimate stays away from the truth,
however close the atoms are. Shown here without estimation: the truth with one atom split into pieces at a shrinking
distance, and the Hellinger distance that is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from methods.mixtures.designs import Design, design
from methods.mixtures.gates import Gate
from methods.mixtures.losses import active_needed, hellinger, referred, voronoi_loss
from methods.mixtures.mixture import Mixture
from methods.models.estimates import Estimates
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.mixtures.params import MoESplit
    from methods.run.context import Context

ROWS = 400


def split(found: Design, pieces: int, distance: float) -> Mixture:
    """The truth, its first atom in `pieces` equal parts, spread evenly over +-distance in every number."""
    truth = found.truth
    shift = (
        torch.linspace(-distance, distance, pieces, dtype=torch.float64)
        if pieces > 1
        else torch.zeros(1)
    )
    parts = {}
    for name in ("beta0", "beta1", "a", "b", "v"):
        value = getattr(truth, name)
        first = value[:1].expand(pieces, *value.shape[1:]) + shift.view(
            -1, *[1] * (value.dim() - 1)
        )
        parts[name] = torch.cat([first, value[1:]])
    parts["beta0"][:pieces] -= torch.log(torch.tensor(float(pieces)))
    return Mixture(**parts)


def apply(base: None, data: dict, params: MoESplit, context: Context) -> Estimates:
    """Hellinger distance and loss for every distance of the pieces."""
    found = design("top2-3")
    experts = found.truth.experts + params.pieces - 1
    if params.active > experts:
        raise RetrofitError(
            f"active {params.active}: the mixture with the split atom has {experts} experts"
        )
    gate = Gate(params.active, found.gate.ranking)
    x = torch.linspace(found.low, found.high, ROWS, dtype=torch.float64)[:, None]
    truth = found.batch(1)
    records = []
    for distance in params.distances:
        parts = split(found, params.pieces, distance)
        mixture = Mixture(*(value[None] for value in list(vars(parts).values())[:5]))
        loss = voronoi_loss(
            referred(mixture, truth, gate), truth, found.gate.active, params.pieces > 1
        )
        apart = float(hellinger(x, mixture, gate, truth, found.gate))
        records.append({"distance": distance, "loss": float(loss), "hellinger": apart})
        context.record(**records[-1])
    needed = int(active_needed(mixture, truth, found.gate.active))
    metrics = {
        "hellinger/limit": Metric(records[-1]["hellinger"], higher_is_better=False),
        "loss/limit": Metric(records[-1]["loss"], higher_is_better=False),
        "needed": Metric(float(needed)),
    }
    return Estimates(records, {}, metrics)

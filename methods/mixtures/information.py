"""The Fisher information of the gate with a temperature as a step of a study (2401.13875, section 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.mixtures.designs import TEMPERED, Design
from methods.mixtures.fisher import SINGULAR, information
from methods.mixtures.gates import DEPENDENT, Gate
from methods.models.estimates import Estimates
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.mixtures.params import MoEFisher
    from methods.run.context import Context


def apply(base: None, data: dict, params: MoEFisher, context: Context) -> Estimates:
    """Eigenvalues, and each direction without information in words."""
    gate = Gate(activation=params.activation, tempered=True)
    # With phi the identity a shift of beta1 would be a second null direction that has nothing to do with tau.
    truth = TEMPERED.canonical(gate)
    where = Design(truth, gate, -2.0, 2.0)
    generator = context.generator("fisher")
    found = information(truth, gate, where.x((params.rows,), generator), generator)
    values, names = found.eigenvalues, found.names
    if gate.activation == "identity":
        # The last beta1 is zero by convention and no number of the model.
        fixed = names.index(f"beta1_{truth.experts}")
        found = found.without(fixed)
        values, names = found.eigenvalues, found.names
    for direction in found.null:
        context.log.warning(
            "activation %s: no information in the direction %s%s",
            params.activation,
            direction,
            f" ({DEPENDENT[params.activation]})" if params.activation in DEPENDENT else "",
        )
    records = [
        {"eigenvalue": float(value), **{n: float(c) for n, c in zip(names, direction, strict=True)}}
        for value, direction in zip(values, found.directions.T, strict=True)
    ]
    smallest, largest = float(values[0]), float(values[-1])
    metrics = {
        "eigenvalue/smallest": Metric(max(smallest, 0.0), higher_is_better=True),
        "eigenvalue/second": Metric(float(values[1]), higher_is_better=True),
        "eigenvalue/largest": Metric(largest),
        "eigenvalue/ratio": Metric(max(smallest, 0.0) / largest, higher_is_better=True),
        "null_directions": Metric(
            float((values < SINGULAR * largest).sum()), higher_is_better=False
        ),
    }
    return Estimates(records, {}, metrics)

"""What becomes of each layer, as data: found once on the float network, stored with the artifact.

A plan is enough to build the quantised modules again around fresh float ones, before their tensors
are loaded. All of it is JSON.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Weights = Literal["statsq", "lsq", "integer"]
"""integer: the weight is on its grid already, as in a deployed network."""
QueryKey = Literal["plain", "published", "exact"]
Layout = Literal["separate", "fused", "multihead"]


@dataclass(frozen=True)
class InputPlan:
    """An LSQ quantiser of activations.

    axis: what has a step of its own (None: one step for all), and `size` is how many there are.
    features: width of the two learned shifts, 0 for none. split: `[b, n, split * c]` is quantised as
    `[b, n * split, c]`.
    """

    bits: int
    signed: bool
    axis: int | None
    size: int
    features: int = 0
    split: int = 1


@dataclass(frozen=True)
class LayerPlan:
    """A linear layer or a convolution."""

    weights: Weights
    bits: int
    input: InputPlan | None


@dataclass(frozen=True)
class AttentionPlan:
    """Self-attention. bits None: nothing is quantised, only the form changes."""

    layout: Layout
    query_key: QueryKey
    weights: Weights
    bits: int | None
    activation_bits: int | None
    shifts: bool
    tokens: int
    width: int
    heads: int

    def input(self, axis: int, size: int, **changes: Any) -> InputPlan | None:
        """The plan of one of its activation quantisers."""
        if self.activation_bits is None:
            return None
        shifted = {"features": self.width} if self.shifts else {}
        values = {"bits": self.activation_bits, "signed": True, **shifted, **changes}
        if not self.shifts:
            values["features"] = 0
        return InputPlan(axis=axis, size=size, **values)


Plan = LayerPlan | AttentionPlan


def to_json(plans: dict[str, Plan]) -> dict[str, dict[str, Any]]:
    """Plans by module name, as JSON."""
    return {
        name: {"kind": "attention" if isinstance(plan, AttentionPlan) else "layer", **asdict(plan)}
        for name, plan in plans.items()
    }


def from_json(stored: dict[str, dict[str, Any]]) -> dict[str, Plan]:
    """What :func:`to_json` gave. Raises KeyError or TypeError for anything else."""
    plans: dict[str, Plan] = {}
    for name, values in stored.items():
        values = dict(values)
        if values.pop("kind") == "attention":
            plans[name] = AttentionPlan(**values)
        else:
            received = values.pop("input")
            plans[name] = LayerPlan(**values, input=InputPlan(**received) if received else None)
    return plans

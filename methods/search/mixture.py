"""What all entangled layers of a network read: the architecture that holds right now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from methods.search.choices import Architecture, Choice, Part
from methods.study.errors import RetrofitError


class Mixture:
    """Either architecture weights `{decision: [n]}`, under which layers superpose their slices, or one

    architecture `{decision: option}`, under which every layer is the plain one of that sub-network.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] | None = None
        self.chosen: Architecture | None = None

    def __deepcopy__(self, memo: dict) -> Mixture:
        # The weights of one forward pass belong to its graph and cannot be copied.
        return Mixture()

    @contextmanager
    def under(
        self, weights: Mapping[str, Tensor] | None = None, chosen: Architecture | None = None
    ) -> Iterator[None]:
        """Superpose with ``weights``, or be ``chosen``, inside."""
        before = self.weights, self.chosen
        self.weights = None if weights is None else dict(weights)
        self.chosen = None if chosen is None else dict(chosen)
        try:
            yield
        finally:
            self.weights, self.chosen = before

    @contextmanager
    def fixed(self, choice: Choice | Part, option: Any) -> Iterator[None]:
        """One decision with certainty inside, the others as they are."""
        name = choice.parent.name if isinstance(choice, Part) else choice.name
        parent = choice.parent if isinstance(choice, Part) else choice
        before = self.of(parent)
        self.weights[name] = torch.eye(len(parent.options)).to(before)[parent.index(option)]
        try:
            yield
        finally:
            self.weights[name] = before

    def of(self, choice: Choice | Part) -> Tensor:
        """The weights [n] of a decision; of a part, normalised within it (uniform where it has none).

        Raises RetrofitError outside a forward pass of the super-network.
        """
        if self.weights is None:
            raise RetrofitError(
                "an entangled layer was called on its own: call the super-network, or use "
                "`supernet.mixture.under(weights=…)`"
            )
        if not isinstance(choice, Part):
            return self.weights[choice.name]
        inside = self.inside(choice)
        total = inside.sum()
        # Both branches of a `where` are differentiated, so the division must be safe in each.
        share = inside / torch.where(total > 0, total, 1.0)
        return torch.where(total > 0, share, torch.full_like(inside, 1 / len(inside)))

    def inside(self, part: Part) -> Tensor:
        """The parent's weights of the options in a part, not normalised."""
        weights = self.weights[part.parent.name]
        return torch.stack([weights[part.parent.index(option)] for option in part.options])

    def all(self, decisions: list[Choice | Part]) -> dict[str, Tensor]:
        """The weights of several decisions by name."""
        return {choice.name: self.of(choice) for choice in decisions}

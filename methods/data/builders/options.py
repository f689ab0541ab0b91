"""What every builder's options have in common, and the seedless ways to split."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import ClassVar

from methods.study.spec_model import SpecModel


class BuilderOptions(SpecModel):
    """The `builder:` section of a declaration."""

    needs: ClassVar[tuple[frozenset[str], ...]]
    """Sets of file names, any one of which is enough to build from."""

    name: str

    @property
    @abstractmethod
    def splits(self) -> list[str]:
        """The splits that `build` makes."""


def check_shares(shares: dict[str, float]) -> dict[str, float]:
    """Shares of splits must be positive and add up to one."""
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise ValueError(f"the shares of the splits must be positive and add up to 1, not {shares}")
    return shares


def by_hash(titles: list[str], shares: dict[str, float]) -> dict[str, list[int]]:
    """Indices for each split, in the order of the input.

    Titles are ordered by their SHA-256 and cut by the shares, so the split needs no random number
    generator, does not follow the alphabet, and leaves no title in two splits.
    """
    order = sorted(range(len(titles)), key=lambda i: hashlib.sha256(titles[i].encode()).digest())
    cuts, total = [0], 0.0
    for share in shares.values():
        total += share
        cuts.append(round(total * len(titles)))
    return {
        split: sorted(order[start:stop])
        for split, start, stop in zip(shares, cuts[:-1], cuts[1:], strict=True)
    }


def every_fifth(labels: list[int]) -> tuple[list[int], list[int]]:
    """Train and test indices, stratified: of every class the fifth, tenth, … item is for testing."""
    seen: dict[int, int] = {}
    train, test = [], []
    for index, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        (test if seen[label] % 5 == 0 else train).append(index)
    return train, test

"""From what a study says about a space to its super-network."""

from __future__ import annotations

from typing import Any

from torch import nn

from methods.search.layers import Sharing
from methods.search.spaces import cell, language, macro
from methods.search.supernet import Supernet, reset


def supernet(
    space: dict[str, Any], facts: dict[str, Any], sharing: Sharing = "entangled", seed: int = 0
) -> Supernet:
    """A fresh super-network; the same seed gives the same weights.

    space: one of the space parameters as a mapping. facts: of the task (`channels` and `classes` of
    images). Raises RetrofitError for options that do not fit.
    """
    plan: dict[str, Any] = {}
    network: nn.Module
    if space["kind"] == "cell":
        network = cell.CellNetwork(
            facts["channels"],
            len(facts["classes"]),
            space["channels"],
            space["shrink"],
            entangled=sharing != "separate",
        )
    elif space["kind"] == "macro":
        network, plan = macro.largest(
            facts["channels"],
            len(facts["classes"]),
            space["widths"],
            space["kernels"],
            space["shrink"],
        )
    else:
        network, plan = language.largest(
            space["embeddings"], space["heads"], space["ratios"], space["depths"], space["length"]
        )
    return Supernet(reset(network, seed), plan, sharing, seed)


def subnet(
    space: dict[str, Any], facts: dict[str, Any], architecture: dict[str, Any], seed: int
) -> nn.Module:
    """One architecture on its own, with fresh weights."""
    return reset(supernet(space, facts).extract(architecture), seed)

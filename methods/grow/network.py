"""The payload of this family: a network, perhaps in template form, with what its training has cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from methods.grow.mixture import Mixture
from methods.models.networks.network import Network, read


@dataclass
class GrowingNetwork(Network):
    """A `Network` that may be a :class:`Mixture`, whose making is then in ``notes["mixture"]``.

    notes: `training_flops` and `updates` so far, over all steps of the chain; `curve`: rows of the
    history so far; `mixture`: templates, sets, share, image (shape [c, h, w]) and whether it has
    grown.
    """

    loader: ClassVar[str] = "methods.grow.network:load"


def load(directory: Path) -> GrowingNetwork:
    """What `save` wrote, in evaluation mode. Raises RetrofitError on a bad directory."""
    fields, module, _ = read(directory, _in_the_form_saved)
    return GrowingNetwork(module, **fields)


def _in_the_form_saved(module: nn.Module, config: dict[str, Any]) -> nn.Module:
    form = config["notes"].get("mixture")
    if not form:
        return module
    mixture = in_template_form(module, form)
    if form["grown"]:
        mixture.grow("none")
    else:
        mixture.use("sum")
    return mixture


def in_template_form(
    module: nn.Module, form: dict[str, Any], generator: torch.Generator | None = None
) -> Mixture:
    """A :class:`Mixture` as ``notes["mixture"]`` describes it, templates drawn anew."""
    return Mixture(
        module,
        torch.zeros(2, *form["image"]).normal_(generator=torch.Generator().manual_seed(0)),
        templates=form["templates"],
        sets=form["sets"],
        share=form["share"],
        generator=generator,
        initialisation=form["initialisation"],
    )

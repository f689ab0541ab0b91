"""The payload of this family: a network, perhaps in template form, with what its training has cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from methods.grow.mixture import Mixture
from methods.models.networks import network
from methods.models.networks.network import CONFIG, WEIGHTS, Network
from methods.models.networks.wide_residual import WideResidual
from methods.study.errors import RetrofitError


@dataclass
class GrowingNetwork(Network):
    """A `Network` that may be a :class:`Mixture`, whose making is then in ``notes["mixture"]``.

    notes: `training_flops` and `updates` so far, over all steps of the chain; `curve`: rows of the
    history so far; `mixture`: templates, sets, share, image (shape [c, h, w]) and whether it has
    grown.
    """

    loader: ClassVar[str] = "methods.grow.network:load"


def build(architecture: str, arguments: dict[str, Any], seed: int) -> nn.Module:
    """As :func:`methods.models.networks.network.build`, and wide residual networks."""
    if architecture != "wide_residual":
        return network.build(architecture, arguments, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return WideResidual(**arguments)


def load(directory: Path) -> GrowingNetwork:
    """What `save` wrote, in evaluation mode. Raises RetrofitError on a bad directory."""
    directory = Path(directory)
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(directory / WEIGHTS)
        module = build(config["architecture"], config["arguments"], seed=0)
        form = config["notes"].get("mixture")
        if form:
            module = in_template_form(module, form)
            if form["grown"]:
                module.grow("none")
            else:
                module.use("sum")
        module.load_state_dict(weights)
    except RuntimeError:
        raise RetrofitError(
            f"{directory / WEIGHTS} does not fit the network that {CONFIG} beside it describes"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RetrofitError(f"{directory} holds no usable network ({error})") from None
    fields = ("architecture", "arguments", "mean", "std", "classes", "notes")
    return GrowingNetwork(module.eval(), **{name: config[name] for name in fields})


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

"""Vision networks whose weights others published, as declared in `configs/models/` with layout `network`.

Their PyTorch files are pickles, which can run code when they are read. So these are read only after
their SHA-256 was found to be the declared one (a declaration without it is refused), and by torch's
loader that takes nothing but tensors. No other pickle is ever loaded as a base.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from methods.models.networks.efficientnet_lite import renamed
from methods.models.networks.network import Network, build
from methods.study.errors import RetrofitError, choices

if TYPE_CHECKING:
    from methods.run.context import Context

RENAME = {"efficientnet_lite": renamed}
"""From published names of tensors to ours, by architecture."""


def from_declaration(spec: Mapping[str, Any], context: Context) -> Network:
    """The network of a declaration; its one file is fetched and checked if need be.

    Raises RetrofitError: no source reachable, a file that is no state dict, tensors that do not fit.
    """
    declaration = importlib.import_module("methods.models.params").ModelDeclaration.model_validate(
        {key: value for key, value in spec.items() if key != "name"}
    )
    sources = importlib.import_module("methods.data.sources")
    name = spec.get("name", declaration.title)
    files = sources.obtain(name, declaration.files, declaration.sources)
    config = declaration.config
    network = assemble(name, config, next(iter(files.values())))
    network.notes["base"] = {
        "name": name,
        "title": declaration.title,
        "licence": declaration.licence,
    }
    if declaration.caveat:
        network.notes["caveat"] = declaration.caveat
    return network


def assemble(name: str, config: Mapping[str, Any], path: Path) -> Network:
    """The network that `config` describes with the weights in a verified file.

    config: architecture, arguments (of its constructor), mean and std of each channel in 0..1, and
    class names, where known; else the classes are called "0", "1", … Raises RetrofitError: an
    architecture without published weights, a file of something else, tensors that do not fit.
    """
    architecture = config.get("architecture")
    if architecture not in RENAME:
        raise RetrofitError(
            f"model {name}: no published weights are known for the architecture '{architecture}'; "
            f"{choices(architecture, RENAME)}"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise RetrofitError(f"model {name}: no file of tensors: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RetrofitError(f"model {name}: its file holds no state dict")
    arguments = dict(config["arguments"])
    module = build(architecture, arguments, seed=0)
    try:
        module.load_state_dict(RENAME[architecture](state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())  # torch's message has lines and tabs
        raise RetrofitError(f"model {name}: the published weights do not fit: {reason}") from None
    module.eval().requires_grad_(False)
    classes = config.get("classes") or [str(i) for i in range(arguments["classes"])]
    return Network(module, architecture, arguments, config["mean"], config["std"], classes)

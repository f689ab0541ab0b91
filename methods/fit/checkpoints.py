"""What a training run must keep to continue to the same bits, as tensors and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.fit.loop import Stateful
    from methods.run.context import Context


def pack(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: Mapping[str, Stateful],
    context: Context,
    step: int,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, state) after ``step`` updates; the tensors are the living ones."""
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    tensors["generator/cpu"] = torch.get_rng_state()
    if context.device.startswith("cuda"):
        tensors["generator/cuda"] = torch.cuda.get_rng_state(context.device)
    states = {}
    for name, item in kept.items():
        theirs, states[name] = item.state()
        tensors.update({f"kept/{name}/{key}": tensor for key, tensor in theirs.items()})
    return tensors, {"step": step, "optimizer": scalars, "kept": states}


def unpack(
    saved: dict[str, Any],
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: Mapping[str, Stateful],
    context: Context,
) -> int:
    """Restore everything in place; returns the number of updates done.

    Raises RetrofitError when the checkpoint is of another network.
    """
    tensors, state = saved["tensors"], saved["state"]
    try:
        network.load_state_dict(_under(tensors, "network"))
    except RuntimeError as error:
        raise RetrofitError(
            f"the checkpoint of {context.label} does not fit its network ({error})"
        ) from None
    moments: dict[int, dict[str, Any]] = {int(k): dict(v) for k, v in state["optimizer"].items()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, tensor in _under(tensors, "optimizer").items():
        index, key = name.split("/")
        moments.setdefault(int(index), {})[key] = _as_laid_out(tensor, parameters[int(index)])
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for name, item in kept.items():
        item.restore_state(_under(tensors, f"kept/{name}"), state["kept"][name])
    torch.set_rng_state(tensors["generator/cpu"])
    if context.device.startswith("cuda"):
        torch.cuda.set_rng_state(tensors["generator/cuda"], context.device)
    return state["step"]


def _as_laid_out(moment: Tensor, parameter: Tensor) -> Tensor:
    """The moment in its parameter's memory format, which files do not keep.

    Fused optimisers walk through both as they lie, and would pair the wrong numbers.
    """
    if moment.shape != parameter.shape:
        return moment
    return torch.empty_like(parameter, dtype=moment.dtype, device=moment.device).copy_(moment)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}

"""Wall clock of forward passes and training steps: what masks do not save on dense kernels."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.fit.batches import as_batch_first, standardise
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.prune.params import StepTime
    from methods.run.context import Context


def measure(
    model: Any, data: dict[str, list[Any]], params: StepTime, context: Context
) -> dict[str, Metric]:
    """`step_time` and `forward_time`, medians in ms for a whole batch, on a copy of the model.

    A step is forward, backward and an update by SGD with momentum. Images come from the role `test`;
    a language model gets random tokens. Raises RetrofitError for a network without test images.
    """
    network, loss = _loss(model, data, params, context)
    optimizer = torch.optim.SGD(network.parameters(), 1e-6, momentum=0.9, fused=True)
    cast = (
        torch.autocast(context.device.split(":")[0], torch.bfloat16)
        if params.precision == "bfloat16"
        else nullcontext()
    )

    def forward() -> None:
        with torch.no_grad(), cast:
            loss()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with cast:
            value = loss()
        value.backward()
        optimizer.step()

    found = {}
    for name, work in (("step_time", step), ("forward_time", forward)):
        times = _timed(work, params.repeats, context)
        found[name] = Metric(
            statistics.median(times), n=len(times), unit="ms", higher_is_better=False, values=times
        )
    return found


def _loss(
    model: Any, data: dict[str, list[Any]], params: StepTime, context: Context
) -> tuple[nn.Module, Callable[[], Tensor]]:
    if hasattr(model, "module"):
        if not data.get("test"):
            raise RetrofitError("step_time of a network needs images of the role `test`")
        images = data["test"][0]
        network = copy.deepcopy(model.module).to(context.device, memory_format=torch.channels_last)
        network.train().requires_grad_(True)
        pixels = as_batch_first(images.x[: params.batch], context.device)
        x = standardise(pixels, model.mean, model.std)
        y = torch.from_numpy(images.y[: params.batch]).to(context.device)
        return network, lambda: cross_entropy(network(x).float(), y)
    network = copy.deepcopy(model.model).to(context.device).train().requires_grad_(True)
    tokens = torch.randint(
        network.config.vocab_size,
        (params.batch, params.length),
        generator=context.generator("step_time"),
    ).to(context.device)
    return network, lambda: network(input_ids=tokens, labels=tokens, use_cache=False).loss


def _timed(work: Callable[[], None], repeats: int, context: Context) -> list[float]:
    times = []
    for _ in range(repeats + 2):  # the first ones choose kernels and fill caches
        began = time.perf_counter()
        work()
        if context.device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return times[2:]

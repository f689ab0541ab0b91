"""Time and memory of decoding token by token after contexts of several lengths.

Wall-clock on whatever machine runs it: a table shows it, CI never compares it. The bytes of the cache
are exact everywhere.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from methods.models.blocks import in_dtype
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.measure.params import DecodeLatency
    from methods.models.language import LanguageModel
    from methods.run.context import Context

PREFILL = 1024
"""Tokens of context read at once: bounds the memory of the attention scores."""


def measure(
    model: LanguageModel, data: dict, params: DecodeLatency, context: Context
) -> dict[str, Metric]:
    """`decode_latency/<context>` (median ms per token) and `cache/<context>` (bytes).

    Context tokens are random: time does not depend on which they are.
    """
    network = model.model.to(context.device).eval()
    longest = max(params.contexts) + params.tokens
    allowed = getattr(network.config, "max_position_embeddings", None)
    if allowed is not None and longest > allowed:
        raise RetrofitError(
            f"decode_latency: {longest} tokens exceed the model's {allowed} positions"
        )
    generator = context.generator("decode_latency")
    tokens = torch.randint(network.config.vocab_size, (1, longest), generator=generator)
    tokens = tokens.to(context.device)
    metrics: dict[str, Metric] = {}
    with torch.inference_mode(), in_dtype(network, getattr(torch, params.dtype)):
        for length in context.progress(params.contexts, label="contexts"):
            times, cache = decode(network, tokens, length, params.tokens)
            metrics[f"decode_latency/{length}"] = Metric(
                statistics.median(times),
                n=len(times),
                unit="ms/token",
                higher_is_better=False,
                values=times,
            )
            metrics[f"cache/{length}"] = Metric(cache, unit="B", higher_is_better=False)
    return metrics


def decode(
    network: torch.nn.Module, tokens: torch.Tensor, context: int, steps: int
) -> tuple[list[float], int]:
    """Milliseconds of each of `steps` single-token passes after `context` tokens, and cache bytes.

    tokens: `[1, at least context + steps]`. The first pass warms up and is not timed.
    """
    cache = None
    for start in range(0, context, PREFILL):
        part = tokens[:, start : min(start + PREFILL, context)]
        cache = network(
            part, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).past_key_values
    size = _tensor_bytes(cache, set())
    times = []
    for step in range(steps):
        one = tokens[:, context + step : context + step + 1]
        began = time.perf_counter()
        cache = network(one, past_key_values=cache, use_cache=True).past_key_values
        if one.is_cuda:
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - began))
    return times[1:], size


def _tensor_bytes(value: Any, seen: set[int]) -> int:
    """Bytes of all tensors reachable from a cache object, each storage once."""
    if isinstance(value, torch.Tensor):
        key = value.untyped_storage().data_ptr()
        if key in seen or not value.numel():
            return 0
        seen.add(key)
        return value.nbytes
    if id(value) in seen or isinstance(value, (str, bytes, int, float, torch.dtype, type(None))):
        return 0
    seen.add(id(value))
    if isinstance(value, dict):
        return sum(_tensor_bytes(child, seen) for child in value.values())
    if isinstance(value, (list, tuple)):
        return sum(_tensor_bytes(child, seen) for child in value)
    # Only cache objects are searched: a configuration that they point to holds no state.
    if "cache" in type(value).__module__ and hasattr(value, "__dict__"):
        return sum(_tensor_bytes(child, seen) for child in vars(value).values())
    return 0

"""Perplexity on held-out text, by the convention of GPTQ (2210.17323) and AWQ (2306.00978).

*Fidelity.* As in both papers' published code: documents joined with a blank line and tokenised once
with the tokenizer's own defaults (no special handling of a beginning-of-text token), windows that do
not overlap, tail dropped, the first token of a window not predicted. Their code weighs a window by
its length instead of the number of predicted tokens, which cancels. Window length and number are
parameters, because a CPU run cannot pay for all windows of 2048; a number from other windows is
another number. Chosen here: when not all windows are used they are spread over the text, so that
a few windows do not measure one article; `select: first` takes the beginning.

Full-vocabulary logits exist for a small chunk of positions at a time: a window of 2048 tokens of a
256k-word vocabulary would otherwise take 2 GB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from methods.models.blocks import in_dtype
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.data.kinds import Text
    from methods.measure.params import Perplexity
    from methods.models.language import LanguageModel
    from methods.run.context import Context

CHUNK = 6_400_000
"""Logits that exist at once; 26 MB in float32, which fits a CPU's cache and was fastest."""


def measure(
    model: LanguageModel, data: dict[str, list], params: Perplexity, context: Context
) -> dict[str, Metric]:
    """`perplexity/<set>` and `nll/<set>` (nats per token, with one value per window) for each text.

    Raises RetrofitError: no tokenizer, a set that is no text or shorter than one window, a
    likelihood that is not finite.
    """
    if model.tokenizer is None:
        raise RetrofitError("perplexity needs a tokenizer, and the model has none")
    work: list[tuple[Text, list[int], torch.Tensor]] = []
    for text in data["eval"]:
        chosen, windows = text_windows(
            text, model.tokenizer, params.window, params.windows, params.select
        )
        work.append((text, chosen, windows))
    metrics: dict[str, Metric] = {}
    network = model.model.to(context.device).eval()
    total = sum(len(chosen) for _, chosen, _ in work)
    with torch.inference_mode(), in_dtype(network, getattr(torch, params.dtype)):
        score = scorer(network, work[0][2][:1, : min(8, params.window)])
        batches = [(i, part) for i, (*_, w) in enumerate(work) for part in w.split(params.batch)]
        losses: list[list[float]] = [[] for _ in work]
        done = context.progress(batches, total=len(batches), label=f"{total} windows")
        for index, part in done:
            losses[index] += score(part.to(context.device)).tolist()
    for (text, chosen, _), values in zip(work, losses, strict=True):
        metrics |= summarise(text.name, chosen, values)
    return metrics


def text_windows(
    text: Text, tokenizer: Callable, window: int, windows: int | None, select: str = "spread"
) -> tuple[list[int], torch.Tensor]:
    """Indices of the chosen windows and their token ids `[n, window]`.

    Raises RetrofitError when the text has less than one window, or fewer than were asked for.
    """
    documents = getattr(text, "documents", None)
    if documents is None:
        raise RetrofitError(f"perplexity needs text, and {text.name} is {type(text).__name__}")
    # verbose=False: the length of a whole corpus is no reason to warn about the model's context.
    ids = tokenizer("\n\n".join(documents), verbose=False)["input_ids"]
    available = len(ids) // window
    if not available:
        raise RetrofitError(
            f"{text.name} has {len(ids)} tokens, less than one window of {window}; "
            "choose a shorter window or a longer text"
        )
    if windows is not None and windows > available:
        raise RetrofitError(
            f"{text.name} has {available} windows of {window} tokens, and {windows} are asked for"
        )
    chosen = pick(available, windows, select)
    tokens = torch.tensor(ids[: available * window]).view(available, window)
    return chosen, tokens[chosen]


def pick(available: int, wanted: int | None, select: str = "spread") -> list[int]:
    """Which of `available` windows: all, the first ones, or the middles of equal stretches."""
    if wanted is None or wanted == available:
        return list(range(available))
    if select == "first":
        return list(range(wanted))
    return [(2 * i + 1) * available // (2 * wanted) for i in range(wanted)]


def scorer(network: nn.Module, probe: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function from token ids `[b, T]` to the mean negative log-likelihood `[b]` of each row.

    It applies the head to chunks of positions. Architectures may do more to their logits than the
    head (soft capping, scaling); `probe` `[1, few]` shows whether chunks give the model's own logits,
    and where they do not, the model is asked for all logits at once.
    """
    head = network.get_output_embeddings()
    decoder = network.get_decoder()
    capping = getattr(network.config, "final_logit_softcapping", None)
    device = next(network.parameters()).device

    def logits_of(hidden: torch.Tensor) -> torch.Tensor:
        logits = head(hidden)
        return torch.tanh(logits / capping) * capping if capping else logits

    def chunked(tokens: torch.Tensor) -> torch.Tensor:
        hidden = decoder(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
        targets = tokens[:, 1:].reshape(-1)
        rows = max(1, CHUNK // head.weight.shape[0])
        parts = [
            cross_entropy(logits_of(h).float(), t, reduction="none")
            for h, t in zip(hidden.flatten(0, 1).split(rows), targets.split(rows), strict=True)
        ]
        return torch.cat(parts).view(len(tokens), -1).double().mean(1)

    def whole(tokens: torch.Tensor) -> torch.Tensor:
        logits = network(input_ids=tokens, use_cache=False).logits[:, :-1].float()
        losses = cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        return losses.double().mean(1)

    if head is None or decoder is None or decoder is network:
        return whole
    probe = probe.to(device)
    hidden = decoder(input_ids=probe, use_cache=False).last_hidden_state
    own = network(input_ids=probe, use_cache=False).logits
    same = torch.allclose(logits_of(hidden), own, rtol=1e-2, atol=1e-2, equal_nan=True)
    return chunked if same else whole


def summarise(name: str, chosen: Sequence[int], values: Sequence[float]) -> dict[str, Metric]:
    """The two metrics of one text from the mean negative log-likelihood of each window."""
    for index, value in zip(chosen, values, strict=True):
        if not math.isfinite(value):
            raise RetrofitError(
                f"the likelihood of {name} is not finite in window {index}: the model computes NaN "
                "or infinity there"
            )
    n = len(values)
    mean = math.fsum(values) / n
    stderr = None
    if n > 1:
        stderr = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    labels = [f"{name}:{index}" for index in chosen]
    # A broken model can have a likelihood whose exponential no float holds.
    perplexity = math.exp(min(mean, 700.0))
    return {
        f"perplexity/{name}": Metric(
            perplexity,
            # exp is differentiable: its error is the derivative times that of the mean.
            stderr=None if stderr is None else perplexity * stderr,
            n=n,
            higher_is_better=False,
            # Of each window alone; their mean is not the perplexity, which is why nll exists.
            values=[math.exp(min(v, 700.0)) for v in values],
            labels=labels,
        ),
        f"nll/{name}": Metric(
            mean,
            stderr=stderr,
            n=n,
            unit="nat/token",
            higher_is_better=False,
            values=list(values),
            labels=labels,
        ),
    }

"""Associative recall: does a model find what it has read, and from how far away?

A passage of tokens that no language model can guess (draws from the text's own tokens, in random
order) is read, then `gap` tokens of running text, then the passage again. Each of its tokens but the
first `cue` ones can be predicted by looking up what followed the same tokens before; a model that sees
a window only must fail once the first occurrence has left it. (The induction test of Olsson et al.,
2209.11895; Arora et al., 2312.04927, show that this is what tells recurrences from attention.)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from methods.measure.perplexity import text_windows
from methods.models.blocks import in_dtype
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.measure.params import Recall
    from methods.models.language import LanguageModel
    from methods.run.context import Context


def measure(
    model: LanguageModel, data: dict[str, list], params: Recall, context: Context
) -> dict[str, Metric]:
    """`recall/<gap>` (share of tokens predicted first) and `recall_nll/<gap>` (nats a token), one
    value for each probe, on the first text of the role `eval`.

    Raises RetrofitError: no tokenizer, a text too short for the probes.
    """
    if model.tokenizer is None:
        raise RetrofitError("recall needs a tokenizer, and the model has none")
    text = data["eval"][0]
    network = model.model.to(context.device).eval()
    generator = context.generator("recall")
    metrics: dict[str, Metric] = {}
    with torch.inference_mode(), in_dtype(network, getattr(torch, params.dtype)):
        for gap in context.progress(params.gaps, label="recall"):
            _, filler = text_windows(text, model.tokenizer, max(gap, params.passage), None)
            tokens = probes(filler, gap, params.passage, params.items, generator)
            hits, losses = [], []
            for part in tokens.split(params.batch):
                found = score(network, part.to(context.device), params.passage - params.cue)
                hits += found[0].tolist()
                losses += found[1].tolist()
            labels = [f"{gap}:{i}" for i in range(params.items)]
            metrics[f"recall/{gap}"] = _metric(hits, labels, "", True)
            metrics[f"recall_nll/{gap}"] = _metric(losses, labels, "nat/token", False)
    return metrics


def probes(
    filler: Tensor, gap: int, passage: int, items: int, generator: torch.Generator
) -> Tensor:
    """`[items, passage + gap + passage]` token ids: a passage, running text, the passage again.

    filler: windows `[n, at least gap]` of the text, int64.
    """
    pool = filler.flatten()
    drawn = torch.randint(len(pool), (items, passage), generator=generator)
    rows = torch.randint(len(filler), (items,), generator=generator)
    between = filler[rows, :gap]
    secret = pool[drawn]
    return torch.cat([secret, between, secret], 1)


def score(network: torch.nn.Module, tokens: Tensor, asked: int) -> tuple[Tensor, Tensor]:
    """Of the last `asked` tokens of each row: share predicted first, and mean nats, each `[rows]`."""
    logits = network(input_ids=tokens, use_cache=False, logits_to_keep=asked + 1).logits[:, :-1]
    targets = tokens[:, -asked:]
    log = log_softmax(logits.float(), -1)
    hits = (log.argmax(-1) == targets).double().mean(1)
    losses = -log.gather(-1, targets[..., None]).squeeze(-1).double().mean(1)
    return hits, losses


def _metric(values: list[float], labels: list[str], unit: str, higher: bool) -> Metric:
    n = len(values)
    mean = math.fsum(values) / n
    stderr = None
    if n > 1:
        stderr = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Metric(mean, stderr, n, unit, higher, values, labels)

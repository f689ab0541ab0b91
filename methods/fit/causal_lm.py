"""Fine-tuning a causal language model: windows of text, adapters by peft, the one training loop.

Frozen weights compute in bfloat16, what is trained stays float32, and the adapters are merged into
the float32 weights that the model came with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.fit.batches import Batches
from methods.fit.loop import fit
from methods.fit.schedules import constant, cosine, warm_up
from methods.measure.perplexity import text_windows
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from methods.data.kinds import Text
    from methods.fit.params import Tuning
    from methods.run.context import Context

IGNORED = -100
"""The label of a token that is not predicted."""


@dataclass
class Windows:
    """Training windows: tokens and labels `[n, length]` int64; positions start again at each document
    of a packed window, and are None where windows were cut from running text.
    """

    tokens: Tensor
    labels: Tensor
    positions: Tensor | None = None


def training_windows(
    data: dict[str, list], tokenizer: PreTrainedTokenizerBase | None, tuning: Tuning
) -> Windows:
    """All windows of the role `train` that do not overlap.

    Raises RetrofitError: no text, no tokenizer, a text shorter than one window, documents without
    the mark after which the answer stands.
    """
    if not data.get("train"):
        raise RetrofitError("training needs a text: give the study `data: {train: …}`")
    if tokenizer is None:
        raise RetrofitError("training needs a tokenizer, and the model has none")
    text: Text = data["train"][0]
    if not hasattr(text, "documents"):
        raise RetrofitError(f"training needs text, and {text.name} is {type(text).__name__}")
    if tuning.loss_on == "answer":
        return packed(text, tokenizer, tuning.length, tuning.answer_after)
    _, tokens = text_windows(text, tokenizer, tuning.length, None)
    return Windows(tokens, tokens)


def packed(text: Text, tokenizer: PreTrainedTokenizerBase, length: int, mark: str) -> Windows:
    """Documents one after another, each ended by the end-of-text token; only answers are predicted."""
    tokens: list[int] = []
    labels: list[int] = []
    positions: list[int] = []
    end = tokenizer.eos_token_id
    for title, document in zip(text.titles, text.documents, strict=True):
        prompt, found, answer = document.partition(mark)
        if not found:
            raise RetrofitError(
                f"{text.name}: the document '{title}' has no {mark.strip()!r}, so its answer is unknown"
            )
        asked = tokenizer(prompt + mark)["input_ids"]
        said = tokenizer(answer, add_special_tokens=False)["input_ids"]
        said = [*said, end] if end is not None else said
        tokens += asked + said
        labels += [IGNORED] * len(asked) + said
        positions += range(len(asked) + len(said))
    whole = [_whole(part, length, text.name) for part in (tokens, labels, positions)]
    found = [torch.tensor(part).view(-1, length) for part in whole]
    # A window's first token is a start, whatever document it is in the middle of.
    shift = found[2][:, :1]
    same = (found[2] - torch.arange(length)) == shift
    found[2] = torch.where(same.cumprod(1).bool(), torch.arange(length), found[2])
    return Windows(*found)


def _whole(ids: list[int], length: int, name: str) -> list[int]:
    count = len(ids) // length
    if not count:
        raise RetrofitError(
            f"{name} has {len(ids)} tokens, less than one training window of {length}; "
            "choose a shorter window or a longer text"
        )
    return ids[: count * length]


class Trained(nn.Module):
    """Only what is trained, under the names that a checkpoint gives it; calls the whole model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names = [n for n, p in model.named_parameters() if p.requires_grad]
        own = dict(model.named_parameters())
        self.parts = nn.ParameterList(own[name] for name in self.names)
        # Not a submodule: the frozen weights do not belong in a checkpoint.
        object.__setattr__(self, "model", model)


def next_token_loss(model: nn.Module, windows: Windows, rows: Tensor, device: str) -> Tensor:
    """Mean cross-entropy of the predicted tokens of some windows, float32 scalar."""
    tokens, labels = windows.tokens[rows].to(device), windows.labels[rows].to(device)
    places = {}
    if windows.positions is not None:
        places["position_ids"] = windows.positions[rows].to(device)
    logits = model(input_ids=tokens, use_cache=False, **places).logits[:, :-1]
    return cross_entropy(
        logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )


@contextmanager
def frozen_in(model: nn.Module, dtype: torch.dtype, trained: set[str]) -> Iterator[None]:
    """All parameters but the `trained` ones in `dtype` inside the `with`; their own bits after it."""
    kept = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
        if name not in trained and parameter.dtype != dtype:
            kept.append((parameter, parameter.data))
            parameter.data = parameter.data.to(dtype)
    try:
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
        model.requires_grad_(False)


def tune(
    model: PreTrainedModel,
    data: dict[str, list],
    tokenizer: PreTrainedTokenizerBase | None,
    tuning: Tuning,
    context: Context,
    added: set[str] | None = None,
) -> PreTrainedModel:
    """The model after training, adapters merged; in place as far as possible.

    added: names of parameters that are trained besides the adapters. Raises RetrofitError as
    `training_windows` and `fit` do, and where there is nothing to train.
    """
    if not tuning.updates:
        return model
    if tuning.lora is None and not added:
        raise RetrofitError("there is nothing to train: `lora` is null and the method adds nothing")
    windows = training_windows(data, tokenizer, tuning)
    model.to(context.device)
    with frozen_in(model, getattr(torch, tuning.compute_dtype), added or set()):
        adapted = _with_adapters(model, tuning, context)
        if tuning.gradient_checkpointing:
            model.activation_checkpointing_enable()
            model.enable_input_require_grads()
        trained = Trained(adapted)
        batches = Batches(len(windows.tokens), tuning.batch, context.seed_for("training windows"))
        optimizer = torch.optim.AdamW(
            trained.parts, lr=tuning.learning_rate, weight_decay=tuning.weight_decay
        )
        fit(
            trained,
            lambda net, step: next_token_loss(
                net.model, windows, batches.indices(step), context.device
            ),
            optimizer,
            steps=tuning.updates,
            context=context,
            learning_rate=lambda step: rate(tuning, step),
            clip_norm=tuning.clip_norm,
            after_step=lambda step, loss: _note(context, step, loss, tuning),
            label=f"{tuning.tokens} tokens",
        )
        if tuning.gradient_checkpointing:
            model.activation_checkpointing_disable()
    if adapted is not model:
        model = adapted.merge_and_unload()
    return model.requires_grad_(False).eval()


def rate(tuning: Tuning, step: int) -> float:
    """The learning rate of update `step` (the first is 0)."""
    shape = constant(step) if tuning.schedule == "constant" else cosine(step, tuning.updates)
    rising = round(tuning.warm_up * tuning.updates)
    return tuning.learning_rate * shape * warm_up(step, rising)


def _with_adapters(model: PreTrainedModel, tuning: Tuning, context: Context) -> nn.Module:
    if tuning.lora is None:
        return model
    from peft import LoraConfig, get_peft_model

    lora = tuning.lora
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=[f"{name}_proj" for name in lora.targets],
        task_type="CAUSAL_LM",
    )
    before = {name for name, p in model.named_parameters() if p.requires_grad}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed_for("adapters"))
        adapted = get_peft_model(model, config)
    # peft freezes everything but its adapters.
    for name, parameter in adapted.get_base_model().named_parameters():
        if name in before:
            parameter.requires_grad_(True)
    return adapted


def _note(context: Context, step: int, loss: Tensor, tuning: Tuning) -> None:
    every = max(1, tuning.updates // 64)
    if step % every == 0 or step == tuning.updates:
        context.record(tokens=step * tuning.batch * tuning.length, loss=float(loss))

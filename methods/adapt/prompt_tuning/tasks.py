"""A labelled data set as a task: checked, cut, tokenised once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from methods.adapt.prompt_tuning.readout import verbalizer
from methods.data.kinds import LabelledText
from methods.fit.batches import held_out, subset
from methods.models.encoder import Tokens, tokenise
from methods.study.errors import RetrofitError, choices

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from methods.adapt.prompt_tuning.params import TextTuning


@dataclass(frozen=True)
class Labelled:
    """Tokens with their classes, int64 [n]."""

    tokens: Tokens
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Tensor) -> Labelled:
        tokens = Tokens(self.tokens.ids[rows], self.tokens.types[rows], self.tokens.lengths[rows])
        return Labelled(tokens, self.y[rows])


@dataclass(frozen=True)
class Task:
    """What is learned: `words` int64 [C] are the classes' tokens, None on an encoder."""

    name: str
    classes: list[str]
    train: Labelled
    test: Labelled
    words: Tensor | None
    ask: str


def paired(data: dict[str, list[Any]]) -> list[tuple[LabelledText, LabelledText]]:
    """Train and test splits of each task, in the order of `train`.

    Raises RetrofitError: no labelled texts, a task without a test split or twice, other classes in the test split.
    """
    for role in ("train", "test"):
        for split in data.get(role, []):
            if not isinstance(split, LabelledText):
                raise RetrofitError(
                    f"data role '{role}': {split.name} is {type(split).__name__}, not labelled text"
                )
    tests = {name_of(split): split for split in data.get("test", [])}
    names = [name_of(split) for split in data.get("train", [])]
    if not names:
        raise RetrofitError("there is no task: give the study `data: {train: …, test: …}`")
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise RetrofitError(f"the task '{doubled[0]}' stands twice in the data role 'train'")
    found = []
    for name, train in zip(names, data["train"], strict=True):
        if name not in tests:
            raise RetrofitError(f"the task '{name}' has no test split; {choices(name, tests)}")
        if tests[name].classes != train.classes:
            raise RetrofitError(f"the splits of '{name}' do not have the same classes")
        found.append((train, tests[name]))
    return found


def name_of(split: LabelledText) -> str:
    """The task's name: the data set's, without the split."""
    return split.name.rpartition(".")[0] or split.name


def prepare(
    train: LabelledText,
    test: LabelledText,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    params: TextTuning,
) -> Task:
    """The task with its splits cut to the study's `limit`s and tokenised.

    Raises RetrofitError: one class only, a verbalizer that does not fit, fewer texts than are held out.
    """
    name = name_of(train)
    words, ask = None, params.ask.get(name, "")
    if kind != "encoder":
        words = verbalizer(params.words.get(name, {}), train.classes, tokenizer, name, kind)
    parts = []
    for split in (train, test):
        rows = subset(len(split.y), getattr(split, "options", {}).get("limit")).numpy()
        documents = [split.documents[row] for row in rows]
        pairs = None if split.pairs is None else [split.pairs[row] for row in rows]
        tokens = tokens_of(documents, pairs, tokenizer, kind, params.length, ask)
        parts.append(Labelled(tokens, torch.from_numpy(split.y[rows])))
    present = np.unique(parts[0].y.numpy())
    if len(present) < 2:
        only = train.classes[present[0]] if len(present) else "none"
        raise RetrofitError(f"the task '{name}' has one class ({only}): there is nothing to learn")
    if params.validation >= len(parts[0]):
        raise RetrofitError(
            f"the task '{name}' has {len(parts[0])} training texts, and validation asks for {params.validation}"
        )
    return Task(name, train.classes, *parts, words, ask)


def tokens_of(
    documents: list[str],
    pairs: list[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    length: int,
    ask: str,
) -> Tokens:
    """An encoder reads both texts as its tokenizer joins them; a language model one after the other, then `ask`."""
    if kind == "encoder":
        return tokenise(tokenizer, documents, length, pairs)
    if pairs is not None:
        documents = [f"{first}\n{second}" for first, second in zip(documents, pairs, strict=True)]
    question = tokenizer(f"\n{ask}", add_special_tokens=False)["input_ids"] if ask else []
    room = length - len(question)
    tokens = tokenise(tokenizer, documents, room)
    if not question:
        return tokens
    wide = torch.nn.functional.pad(tokens.ids, (0, len(question)))
    places = tokens.lengths[:, None] + torch.arange(len(question))
    wide.scatter_(1, places, torch.tensor(question, dtype=wide.dtype).expand(len(wide), -1))
    return Tokens(wide, torch.zeros_like(wide), tokens.lengths + len(question))


def divided(task: Task, validation: int, seed: int) -> tuple[Labelled, Labelled]:
    """(trained on, held out): the held-out texts are the same for every method of a seed."""
    kept, held = held_out(len(task.train), validation, seed)
    return task.train[kept], task.train[held]

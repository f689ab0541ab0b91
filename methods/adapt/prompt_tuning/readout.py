"""From a model's output to one score for each class: a classifier on an encoder, words of a language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.models.encoder import mean_of_tokens
from methods.study.errors import RetrofitError, choices

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEAD_STD = 0.02


class EncoderReadout(nn.Module):
    """A linear classifier on the mean feature of the text's tokens; those of a prompt are not averaged."""

    def __init__(self, width: int, classes: int, generator: torch.Generator):
        super().__init__()
        self.weight = nn.Parameter(HEAD_STD * torch.randn(classes, width, generator=generator))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, backbone: nn.Module, batch: dict[str, Tensor], prefix: int) -> Tensor:
        """Scores [b, C] float32 of a batch (`input_ids`, `attention_mask`, both [b, s'])."""
        hidden = backbone(**batch).last_hidden_state[:, prefix:]
        features = mean_of_tokens(hidden.float(), batch["attention_mask"])
        return features @ self.weight.T + self.bias


class CausalReadout(nn.Module):
    """Scores of the words that could follow the text, one for each class. Nothing is trained here.

    words: their tokens [C]. table: the model's output embedding, of which only these rows are multiplied with.
    """

    def __init__(self, words: Tensor, table: nn.Module):
        super().__init__()
        self.register_buffer("words", words)
        # Not a submodule: it is the model's.
        object.__setattr__(self, "table", table)

    def forward(self, backbone: nn.Module, batch: dict[str, Tensor], prefix: int) -> Tensor:
        """Scores [b, C] float32 after the last token of each text."""
        # The model's own scores are not used; of a single place, chosen by index, they cost next to nothing (the last
        # place by slice would be no contiguous block, and the whole table copied for every text).
        one = torch.zeros(1, dtype=torch.int64, device=batch["input_ids"].device)
        found = backbone(**batch, output_hidden_states=True, logits_to_keep=one, use_cache=False)
        last = prefix + batch["attention_mask"].sum(1) - 1
        hidden = found.hidden_states[-1]
        features = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return (features @ self.table.weight[self.words].T).float()


class Seq2SeqReadout(nn.Module):
    """Scores of the words that a decoder could begin with, one for each class. Nothing is trained here."""

    def __init__(self, words: Tensor, start: int):
        super().__init__()
        self.register_buffer("words", words)
        self.start = start

    def forward(self, backbone: nn.Module, batch: dict[str, Tensor], prefix: int) -> Tensor:
        """Scores [b, C] float32 of the decoder's first word."""
        first = torch.full_like(batch["input_ids"][:, :1], self.start)
        logits = backbone(**batch, decoder_input_ids=first, use_cache=False).logits
        return logits[:, 0, self.words].float()


def verbalizer(
    words: Mapping[str, str],
    classes: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    task: str,
    kind: str,
) -> Tensor:
    """Token of each class's word, int64 [C].

    A causal model says it after a space. Raises RetrofitError: a class without a word, a word for no class, a word
    that is not one token, two classes with the same word.
    """
    for name in words:
        if name not in classes:
            raise RetrofitError(
                f"words.{task}: the task has no class '{name}'; {choices(name, classes)}"
            )
    missing = [name for name in classes if name not in words]
    if missing:
        raise RetrofitError(
            f"words.{task}: the class '{missing[0]}' has no word; a language model needs one for each of "
            f"{', '.join(classes)}"
        )
    taken: dict[int, str] = {}
    for name in classes:
        text = f" {words[name]}" if kind == "causal" else words[name]
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            pieces = tokenizer.convert_ids_to_tokens(ids)
            raise RetrofitError(
                f"words.{task}.{name}: '{words[name]}' is {len(ids)} tokens ({' '.join(pieces)}); only a word of "
                "one token has one score"
            )
        if ids[0] in taken:
            raise RetrofitError(
                f"words.{task}: '{taken[ids[0]]}' and '{name}' have the same token for their words"
            )
        taken[ids[0]] = name
    return torch.tensor(list(taken))


def readout_for(
    kind: str,
    model: Any,
    classes: Sequence[str],
    words: Tensor | None,
    generator: torch.Generator,
) -> nn.Module:
    """The readout of a kind of model ("encoder", "causal", "seq2seq")."""
    if kind == "encoder":
        return EncoderReadout(model.config.hidden_size, len(classes), generator)
    if kind == "causal":
        return CausalReadout(words, model.get_output_embeddings())
    return Seq2SeqReadout(words, model.config.decoder_start_token_id)

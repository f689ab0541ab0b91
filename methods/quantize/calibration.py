"""Calibration tokens: which windows of which text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from methods.data.kinds import Text
    from methods.run.context import Context

TOKENS = 8192
LENGTH = 512


def calibration_windows(
    data: dict[str, list], tokenizer: PreTrainedTokenizerBase | None, context: Context
) -> torch.Tensor:
    """The windows `[n, length]` (int64) of the step's calibration text; a study's `tokens` and
    `length` (8192 and 512 where it says nothing) give `n = tokens // length`.

    Documents are joined by a blank line, tokenised once and cut into windows, of which the seed
    stream "calibration" chooses: other seeds see other windows, variants with one seed the same.
    AWQ's code takes whole lines from the Pile's validation part and concatenates them likewise.

    Raises RetrofitError: no text or tokenizer, a text shorter than one window or than asked for.
    """
    if not data.get("calibration"):
        raise RetrofitError("calibration needs a text: give the study `data: {calibration: …}`")
    if tokenizer is None:
        raise RetrofitError("calibration needs a tokenizer, and the model has none")
    text: Text = data["calibration"][0]
    if not hasattr(text, "documents"):
        raise RetrofitError(f"calibration needs text, and {text.name} is {type(text).__name__}")
    options = getattr(text, "options", None) or {}
    length = options.get("length") or LENGTH
    wanted = (options.get("tokens") or TOKENS) // length
    if not wanted:
        raise RetrofitError(
            f"calibration: {options['tokens']} tokens are less than one window of {length}"
        )
    windows = cut(text, tokenizer, length)
    if wanted > len(windows):
        raise RetrofitError(
            f"{text.name} has {len(windows)} windows of {length} tokens, "
            f"and calibration asks for {wanted}"
        )
    # Left in random order: the first windows are then a sample of their own (see AWQ's search).
    return windows[
        torch.randperm(len(windows), generator=context.generator("calibration"))[:wanted]
    ]


def cut(text: Text, tokenizer: PreTrainedTokenizerBase, length: int) -> torch.Tensor:
    """All windows `[n, length]` of the text that do not overlap; the tail is dropped."""
    # verbose=False: the length of a whole corpus is no reason to warn about the model's context.
    ids = tokenizer("\n\n".join(text.documents), verbose=False)["input_ids"]
    n = len(ids) // length
    if not n:
        raise RetrofitError(
            f"{text.name} has {len(ids)} tokens, less than one calibration window of {length}; "
            "choose a shorter window or a longer text"
        )
    return torch.tensor(ids[: n * length], dtype=torch.int64).view(n, length)

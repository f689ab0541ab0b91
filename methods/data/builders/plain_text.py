"""A user's own text file: paragraphs in order, the beginning to calibrate and the end to measure."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Text

TEXT = "text.txt"


class Options(BuilderOptions):
    """How much of the text is for testing."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({TEXT}),)

    name: Literal["plain-text"]
    test: float = Field(0.3, gt=0, lt=1)
    """Share of the characters, at the end."""

    @property
    def splits(self) -> list[str]:
        """train and test."""
        return ["train", "test"]


def build(files: dict[str, bytes], options: Options) -> dict[str, Text]:
    """Paragraphs, which blank lines divide; no paragraph is in both splits.

    Raises ValueError for a file that is not UTF-8 or has fewer than two paragraphs.
    """
    try:
        body = files[TEXT].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not UTF-8: {error}") from None
    paragraphs = [part.strip() for part in body.replace("\r\n", "\n").split("\n\n")]
    paragraphs = [part for part in paragraphs if part]
    if len(paragraphs) < 2:
        raise ValueError(
            "the text has fewer than two paragraphs (blank lines divide them), so nothing can be "
            "held out for testing"
        )
    whole, read, cut = sum(map(len, paragraphs)), 0, 1
    for number, part in enumerate(paragraphs):
        read += len(part)
        if read > (1 - options.test) * whole:
            break
        cut = number + 1
    cut = min(max(cut, 1), len(paragraphs) - 1)
    parts = {"train": range(cut), "test": range(cut, len(paragraphs))}
    return {
        split: Text(split, [paragraphs[i] for i in rows], [str(i + 1) for i in rows])
        for split, rows in parts.items()
    }

"""A book as JSON files, one for each chapter (`{"chapter", "title", "text"}`), split by chapter."""

from __future__ import annotations

import json
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from methods.data.builders.options import BuilderOptions, by_hash, check_shares
from methods.data.kinds import Text


class Options(BuilderOptions):
    """Number of chapters and shares of the splits."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset(),)

    name: Literal["chapters"]
    chapters: int = Field(ge=2)
    shares: dict[str, float] = {"train": 0.6, "test": 0.4}

    @field_validator("shares")
    @classmethod
    def _add_up(cls, shares: dict[str, float]) -> dict[str, float]:
        return check_shares(shares)

    @property
    def splits(self) -> list[str]:
        """The names of the shares."""
        return list(self.shares)


def build(files: dict[str, bytes], options: Options) -> dict[str, Text]:
    """Chapters in the order of the book, split by the hash of number and title."""
    texts: list[tuple[str, str]] = []
    for number in range(1, options.chapters + 1):
        chapter = json.loads(files[f"chapter_{number}.json"])
        texts.append((f"{number}. {chapter['title']}", chapter["text"].strip()))
    chosen = by_hash([title for title, _ in texts], options.shares)
    return {
        split: Text(split, [texts[i][1] for i in rows], [texts[i][0] for i in rows])
        for split, rows in chosen.items()
    }

"""Text with one document a line: plain (the raw WikiText files) or JSON (`{"text": …}`, as the Pile comes)."""

from __future__ import annotations

import json
from typing import ClassVar, Literal

from pydantic import Field

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Text


class Options(BuilderOptions):
    """Which file is which split, and where a JSON line keeps its text."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset(),)

    name: Literal["lines"]
    of: dict[str, str] = Field(min_length=1)
    """{split: file}."""
    field: str | None = None
    """The key of the text in a line of JSON; null: the line is the text."""

    @property
    def splits(self) -> list[str]:
        """As declared."""
        return list(self.of)


def build(files: dict[str, bytes], options: Options) -> dict[str, Text]:
    """Lines in the order of the file.

    A plain line keeps its line break and a blank one is empty, which is what the hub's WikiText has: joined by blank
    lines, the documents are then the very text that the GPTQ and AWQ codes measure.
    """
    made = {}
    for split, file in options.of.items():
        lines = files[file].decode("utf-8").split("\n")
        if options.field is None:
            documents = [f"{line}\n" if line.strip() else "" for line in lines[:-1]]
            documents += [lines[-1]] if lines[-1].strip() else []
        else:
            documents = [json.loads(line)[options.field] for line in lines if line.strip()]
        made[split] = Text(split, documents, [str(n + 1) for n in range(len(documents))])
    return made

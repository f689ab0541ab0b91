"""Short texts that many people rated from bad to good (Hutto and Gilbert, ICWSM 2014), as two classes."""

from __future__ import annotations

import io
import tarfile
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from methods.data.builders.options import BuilderOptions, check_shares
from methods.data.kinds import LabelledText
from methods.data.labelled import divided

CLASSES = ["negative", "positive"]


class Options(BuilderOptions):
    """Which of the collection's files, and how clear a rating must be."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"ratings.tar"}),)

    name: Literal["rated-snippets"]
    member: str
    """The tab-separated file in the archive: number, mean rating from -4 to 4, text."""
    margin: float = Field(0.5, ge=0, le=4)
    """Snippets rated closer to zero are left out."""
    shares: dict[str, float] = {"train": 0.8, "test": 0.2}

    @field_validator("shares")
    @classmethod
    def _add_up(cls, shares: dict[str, float]) -> dict[str, float]:
        return check_shares(shares)

    @property
    def splits(self) -> list[str]:
        """As shared out."""
        return list(self.shares)


def build(files: dict[str, bytes], options: Options) -> dict[str, LabelledText]:
    """Clearly rated snippets, divided by the hash of the text. ValueError: no such member, no rating in a line."""
    with tarfile.open(fileobj=io.BytesIO(files["ratings.tar"])) as archive:
        if options.member not in archive.getnames():
            raise ValueError(f"the archive has no {options.member}")
        text = archive.extractfile(options.member).read().decode("utf-8", "replace")
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        _, rating, snippet = line.split("\t", 2)
        try:
            score = float(rating)
        except ValueError:
            raise ValueError(f"{options.member}, line {number}: '{rating}' is no rating") from None
        if abs(score) >= options.margin:
            rows.append((snippet.strip(), CLASSES[int(score > 0)]))
    return divided(rows, options.shares, CLASSES)

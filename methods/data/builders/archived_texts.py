"""Texts that lie in an archive, one or more in a file; the file's path says the class."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from methods.data.builders.options import BuilderOptions, check_shares
from methods.data.kinds import LabelledText
from methods.data.labelled import divided

SOFT_BREAK = re.compile(r"=\r?\n")
TAG = re.compile(r"<[^>]+>")


class Options(BuilderOptions):
    """Which files are which class, and how a file becomes texts."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"texts.zip"}),
        frozenset({"texts.tar"}),
    )

    name: Literal["archived-texts"]
    classes: dict[str, str] = Field(min_length=2)
    """{start of a member's path: class}."""
    suffix: str = ""
    """Members that end otherwise are left out."""
    form: Literal["plain", "mail", "tagged"] = "plain"
    """plain: the file is the text. mail: a message, whose headers and markup are dropped. tagged: a file of the Brown
    corpus (`word/tag`), cut into pieces of `sentences`."""
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    longest: int | None = Field(None, ge=100)
    """Characters of a text that are kept."""
    sentences: int = Field(5, ge=1)
    shares: dict[str, float] = {"train": 0.8, "test": 0.2}
    """By the hash of the text; pieces of one file stay together."""

    @field_validator("shares")
    @classmethod
    def _add_up(cls, shares: dict[str, float]) -> dict[str, float]:
        return check_shares(shares)

    @model_validator(mode="after")
    def _starts_differ(self) -> Options:
        starts = sorted(self.classes)
        for first, second in pairwise(starts):
            if second.startswith(first):
                raise ValueError(f"'{first}' and '{second}' name the same files")
        return self

    @property
    def splits(self) -> list[str]:
        """As shared out."""
        return list(self.shares)


def build(files: dict[str, bytes], options: Options) -> dict[str, LabelledText]:
    """Texts in the order of the members' names. ValueError: a class without files."""
    rows, groups = [], []
    for member, body in _members(files):
        start = next((start for start in options.classes if member.startswith(start)), None)
        if start is None or not member.endswith(options.suffix):
            continue
        for text in _texts(body.decode(options.encoding, "replace"), options):
            rows.append((text[: options.longest], options.classes[start]))
            groups.append(member)
    found = {label for _, label in rows}
    for start, label in options.classes.items():
        if label not in found:
            raise ValueError(f"no file under {start}* has a text, so '{label}' is empty")
    order = list(dict.fromkeys(options.classes.values()))
    # A message that came twice must not be in two splits, so whole texts go by their own hash.
    together = groups if options.form == "tagged" else None
    return divided(rows, options.shares, order, together)


def _members(files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    if "texts.zip" in files:
        with zipfile.ZipFile(io.BytesIO(files["texts.zip"])) as archive:
            for name in sorted(archive.namelist()):
                if not name.endswith("/"):
                    yield name, archive.read(name)
        return
    with tarfile.open(fileobj=io.BytesIO(files["texts.tar"])) as archive:
        for info in sorted((i for i in archive.getmembers() if i.isreg()), key=lambda i: i.name):
            yield info.name.removeprefix("./"), archive.extractfile(info).read()


def _texts(body: str, options: Options) -> Iterator[str]:
    match options.form:
        case "plain":
            yield " ".join(body.split())
        case "mail":
            message = json.loads(body)["text"] if body.startswith("{") else body
            _, _, content = message.partition("\n\n")
            yield " ".join(TAG.sub(" ", SOFT_BREAK.sub("", content)).split())
        case "tagged":
            lines = [line.split() for line in body.splitlines() if line.strip()]
            words = [" ".join(word.rpartition("/")[0] for word in line) for line in lines]
            for start in range(0, len(words) - options.sentences + 1, options.sentences):
                yield " ".join(words[start : start + options.sentences])

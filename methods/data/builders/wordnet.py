"""Tasks made of WordNet: what kind of thing a gloss describes, one sense or two, is X a kind of Y.

Everything is decided by the order of the file and by hashes, so no random number generator is needed.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from methods.data.builders.options import BuilderOptions, check_shares
from methods.data.kinds import LabelledText
from methods.data.labelled import Row, divided

FILES = frozenset({"data.noun", "data.verb"})
LEXICOGRAPHER = (  # noqa: SIM905 - forty-five words read better so
    "adj.all adj.pert adv.all noun.tops noun.act noun.animal noun.artifact noun.attribute noun.body "
    "noun.cognition noun.communication noun.event noun.feeling noun.food noun.group noun.location "
    "noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession noun.process "
    "noun.quantity noun.relation noun.shape noun.state noun.substance noun.time verb.body verb.change "
    "verb.cognition verb.communication verb.competition verb.consumption verb.contact verb.creation "
    "verb.emotion verb.motion verb.perception verb.possession verb.social verb.stative verb.weather adj.ppl"
).split()
"""WordNet's own numbering of its source files (lexnames)."""


class Options(BuilderOptions):
    """Which task, and how many examples of each class."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (FILES,)

    name: Literal["wordnet"]
    task: Literal["supersense", "same-sense", "kind-of"]
    """supersense: gloss → kind of thing. same-sense: a word with two example sentences → same sense or not.
    kind-of: two nouns → is the first a kind of the second; the wrong pairs are half reversed, half shuffled."""
    classes: list[str] = []
    """supersense: the kinds that are kept, as `noun.animal`; empty: all."""
    per_class: int = Field(2500, ge=2)
    """At most so many examples of a class, chosen by hash."""
    shares: dict[str, float] = {"train": 0.8, "test": 0.2}
    """By word, so that none is in two splits."""

    @field_validator("shares")
    @classmethod
    def _add_up(cls, shares: dict[str, float]) -> dict[str, float]:
        return check_shares(shares)

    @field_validator("classes")
    @classmethod
    def _known(cls, classes: list[str]) -> list[str]:
        for name in classes:
            if name not in LEXICOGRAPHER:
                raise ValueError(f"'{name}' is no kind of WordNet's")
        return classes

    @property
    def splits(self) -> list[str]:
        """As shared out."""
        return list(self.shares)


@dataclass(frozen=True)
class Synset:
    """A sense: its words, gloss, example sentences, and the keys of what it is a kind of."""

    kind: str
    words: list[str]
    gloss: str
    examples: list[str]
    above: list[str]


def build(files: dict[str, bytes], options: Options) -> dict[str, LabelledText]:
    """Examples divided by word. ValueError for a file of another form."""
    synsets: dict[str, Synset] = {}
    for part in ("noun", "verb"):
        synsets |= dict(_synsets(files[f"data.{part}"].decode("latin-1"), part))
    make = {"supersense": _supersenses, "same-sense": _senses, "kind-of": _kinds}[options.task]
    kept: dict[str, list[tuple[str, Row]]] = defaultdict(list)
    for group, row in sorted(make(synsets, options), key=lambda found: _hash(found[1])):
        if len(kept[row[1]]) < options.per_class:
            kept[row[1]].append((group, row))
    chosen = sorted((pair for rows in kept.values() for pair in rows), key=lambda p: _hash(p[1]))
    return divided([row for _, row in chosen], options.shares, group=[group for group, _ in chosen])


def _hash(row: Row) -> bytes:
    return hashlib.sha256("\t".join(row).encode()).digest()


def _synsets(text: str, part: str) -> Iterator[tuple[str, Synset]]:
    """(key, sense) of every line that is no licence; the format is WordNet's wndb(5)."""
    for line in text.splitlines():
        if line.startswith("  ") or not line:
            continue
        head, _, gloss = line.partition("|")
        fields = head.split()
        count = int(fields[3], 16)
        words = [fields[4 + 2 * i].partition("(")[0].replace("_", " ") for i in range(count)]
        place = 4 + 2 * count
        pointers = [
            fields[place + 1 + 4 * i : place + 5 + 4 * i] for i in range(int(fields[place]))
        ]
        above = [f"{part}{p[1]}" for p in pointers if p[0] in ("@", "@i") and p[2] == part[0]]
        examples = re.findall(r'"([^"]+)"', gloss)
        meaning = gloss.partition('"')[0].strip(" ;\n")
        kind = LEXICOGRAPHER[int(fields[1])]
        yield f"{part}{fields[0]}", Synset(kind, words, meaning, examples, above)


def _supersenses(synsets: dict[str, Synset], options: Options) -> Iterator[tuple[str, Row]]:
    for sense in synsets.values():
        if sense.gloss and (not options.classes or sense.kind in options.classes):
            yield sense.words[0], (sense.gloss, sense.kind)


def _senses(synsets: dict[str, Synset], options: Options) -> Iterator[tuple[str, Row]]:
    """Pairs of example sentences that use one word in one part of speech."""
    uses: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for key, sense in synsets.items():
        for word in sense.words:
            found = re.compile(rf"\b{re.escape(word)}\w{{0,3}}\b")
            uses[word, key[:4]] += [(key, text) for text in sense.examples if found.search(text)]
    for (word, _), sentences in uses.items():
        for index, (sense, text) in enumerate(sentences):
            for other, before in sentences[:index]:
                label = "same" if sense == other else "different"
                yield word, (f"{word}: {before}", label, text)


def _kinds(synsets: dict[str, Synset], options: Options) -> Iterator[tuple[str, Row]]:
    edges = [
        (sense.words[0], synsets[above].words[0])
        for key, sense in synsets.items()
        if key.startswith("noun")
        for above in sense.above
    ]
    edges.sort(key=lambda edge: _hash(edge))
    true = set(edges)
    for index, (below, above) in enumerate(edges[: 4 * options.per_class]):
        yield below, (below, "yes", above)
        wrong = (above, below) if index % 2 else (below, edges[(index + 1) % len(edges)][1])
        if wrong not in true and wrong[0] != wrong[1]:
            yield below, (wrong[0], "no", wrong[1])

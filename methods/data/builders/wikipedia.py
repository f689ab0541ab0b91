"""Articles of a Wikipedia dump as plain text, split by article.

The cleaner keeps running prose and section headings and drops what a reader of the page would not call text:
templates, tables, references, files, lists, comments.  It works on brackets, not on a full wikitext grammar, so a
few fragments of markup survive where authors nested them wrongly.
"""

from __future__ import annotations

import html
import io
import re
import xml.etree.ElementTree as ElementTree
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from methods.data.builders.options import BuilderOptions, by_hash, check_shares
from methods.data.kinds import Text

DROPPED_ELEMENTS = (
    "ref",
    "math",
    "gallery",
    "timeline",
    "source",
    "table",
    "imagemap",
    "score",
    "chem",
)
LAST_SECTIONS = frozenset(
    {"references", "external links", "see also", "further reading", "notes"}
    | {"bibliography", "footnotes", "sources", "citations"}
)
SHORTEST_LINE = 40
"""Characters; shorter lines are captions, labels and leftovers of lists."""

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_EMPTY_ELEMENT = re.compile(r"<\w+[^<>]*/>")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_PLAIN_LINK = re.compile(r"\[\[([^\[\]]*)\]\]")
_NAMESPACE = re.compile(r":?[A-Za-z][A-Za-z -]{0,15}:\S")
_WEB_LINK = re.compile(r"\[(?:https?:|ftp:|//)\S*(?:[ \t]+([^\]\n]*))?\]")
_ADDRESS = re.compile(r"\b(?:https?|ftp)://\S+")
_HEADING = re.compile(r"(={2,6})\s*(.*?)\s*\1\s*")
_EMPTY_BRACKETS = re.compile(r"\(\s*[;,:\s]*\)")
_AFTER_OPENING = re.compile(r"\(\s*[;,:]\s*")


class Options(BuilderOptions):
    """Shares of the splits."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"dump.xml"}),)

    name: Literal["wikipedia"]
    shares: dict[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}
    shortest: int = Field(500, ge=1)
    """Characters of the shortest article that is kept."""

    @field_validator("shares")
    @classmethod
    def _add_up(cls, shares: dict[str, float]) -> dict[str, float]:
        return check_shares(shares)

    @property
    def splits(self) -> list[str]:
        """The names of the shares."""
        return list(self.shares)


def build(files: dict[str, bytes], options: Options) -> dict[str, Text]:
    """Split the articles of the dump by the hash of their title."""
    articles = [
        (title, text)
        for title, source in pages(files["dump.xml"])
        if len(text := prose(source)) >= options.shortest
    ]
    chosen = by_hash([title for title, _ in articles], options.shares)
    return {
        split: Text(
            f"wikipedia.{split}", [articles[i][1] for i in rows], [articles[i][0] for i in rows]
        )
        for split, rows in chosen.items()
    }


def pages(dump: bytes) -> list[tuple[str, str]]:
    """(title, wikitext) of every article that is no redirect, in the order of the dump."""
    found = []
    for _, page in ElementTree.iterparse(io.BytesIO(dump)):
        if _local(page.tag) != "page":
            continue
        fields = {_local(node.tag): node.text or "" for node in page.iter()}
        if fields.get("ns") == "0" and not fields["text"].lstrip().lower().startswith("#redirect"):
            found.append((fields["title"], fields["text"]))
        page.clear()
    return found


def prose(wikitext: str) -> str:
    """The running text of an article, one paragraph a line."""
    # Entities stand twice escaped in places (&amp;nbsp;).
    text = _COMMENT.sub("", html.unescape(html.unescape(wikitext)))
    text = _EMPTY_ELEMENT.sub("", text)
    for element in DROPPED_ELEMENTS:
        text = re.sub(
            rf"<{element}\b[^<>]*>.*?</{element}\s*>", "", text, flags=re.DOTALL | re.IGNORECASE
        )
    text = without_nested(without_nested(text, "{{", "}}"), "{|", "|}")
    text = without_links(text)
    text = _ADDRESS.sub("", _WEB_LINK.sub(lambda m: m.group(1) or "", text))
    text = _TAG.sub("", text).replace("'''", "").replace("''", "").replace("\u00a0", " ")
    return "\n".join(_lines(text))


def without_nested(text: str, opening: str, closing: str) -> str:
    """`text` without everything between matching brackets, however deep; stray closings stay out too."""
    kept, depth = [], 0
    for part in re.split(f"({re.escape(opening)}|{re.escape(closing)})", text):
        if part == opening:
            depth += 1
        elif part == closing:
            depth = max(depth - 1, 0)
        elif depth == 0:
            kept.append(part)
    return "".join(kept)


def without_links(text: str) -> str:
    """Links by what a reader sees of them; files, categories and other languages vanish."""
    while True:
        shorter = _PLAIN_LINK.sub(_label, text)
        if shorter == text:
            return text
        text = shorter


def _label(link: re.Match[str]) -> str:
    target, bar, label = link.group(1).partition("|")
    if _NAMESPACE.match(target) and " " not in target.partition(":")[0].strip(": "):
        return ""
    return label.rpartition("|")[2] if bar else target


def _lines(text: str) -> list[str]:
    kept: list[str] = []
    for raw in text.split("\n"):
        line = re.sub(r"\s+", " ", _AFTER_OPENING.sub("(", _EMPTY_BRACKETS.sub("", raw))).strip()
        line = re.sub(r" ([,.;:)])", r"\1", line)
        heading = _HEADING.fullmatch(line)
        if heading:
            if heading.group(2).lower() in LAST_SECTIONS and len(heading.group(1)) == 2:
                break
            # Of two headings in a row the first has no text of its own.
            if kept and kept[-1].startswith("= "):
                kept.pop()
            kept.append(f"= {heading.group(2)} =")
        elif len(line) >= SHORTEST_LINE and line[0] not in "*#:;|!{}":
            kept.append(line)
    if kept and kept[-1].startswith("= "):
        kept.pop()
    return kept


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]

"""YAML as people mean it: duplicate keys are errors, `1e-4` is a number, `no` is a word, lines are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from methods.study.errors import SpecError

LARGEST_FILE = 1_000_000
"""Bytes; a specification is written by a person."""
MOST_NODES = 200_000
"""Values after aliases are followed: stops an alias bomb before it fills the memory."""


class Document:
    """A parsed file: `.value` as plain Python objects, `.line(path)` for error messages."""

    def __init__(self, path: Path, tree: Any):
        self.path = path
        self._tree = tree
        self._nodes = 0
        self.value = self._plain(tree, None)

    def _plain(self, node: Any, line: int | None) -> Any:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise SpecError(
                [f"{self.path}: more than {MOST_NODES} values once its aliases are followed"]
            )
        tag = getattr(getattr(node, "tag", None), "value", None)
        if tag:
            raise SpecError([f"{self.path}: tags are not allowed here: {tag}"])
        if isinstance(node, CommentedMap):
            for key in node:
                if not isinstance(key, (str, int)):
                    raise SpecError(
                        [f"{self.path}:{node.lc.line + 1}: a key must be text, found {key!r}"]
                    )
            return {
                str(key): self._plain(child, _line_of(node, key) or line)
                for key, child in node.items()
            }
        if isinstance(node, CommentedSeq):
            return [
                self._plain(child, _line_of(node, index) or line)
                for index, child in enumerate(node)
            ]
        if isinstance(node, bool) or node is None:
            return node
        if isinstance(node, float) and not math.isfinite(node):
            where = f"{self.path}:{line}" if line else f"{self.path}"
            raise SpecError([f"{where}: {float(node)} is no finite number"])
        for kind in (int, float, str):
            if isinstance(node, kind):
                return kind(node)
        raise SpecError([f"{self.path}: {type(node).__name__} values are not allowed here: {node}"])

    def line(self, location: tuple[str | int, ...]) -> int | None:
        """1-based line of the deepest part of `location` that exists in the file."""
        node, line = self._tree, None
        for part in location:
            inside = (
                part in node
                if isinstance(node, CommentedMap)
                else isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node)
            )
            if inside:
                line = _line_of(node, part) or line
                node = node[part]
        return line


def _line_of(node: CommentedMap | CommentedSeq, part: str | int) -> int | None:
    """1-based line of a key or item; None where it came in by a merge (`<<`)."""
    try:
        place = node.lc.key(part) if isinstance(node, CommentedMap) else node.lc.item(part)
    except KeyError:
        return None
    return place[0] + 1


def load(path: Path | str) -> Document:
    """Read one YAML file; SpecError names file, line and problem."""
    path = Path(path)
    if not path.is_file():
        raise SpecError([f"{path}: there is no such file"])
    if path.stat().st_size > LARGEST_FILE:
        raise SpecError([f"{path}: larger than {LARGEST_FILE} bytes; is this a specification?"])
    yaml = YAML(typ="rt")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"))
    except DuplicateKeyError as error:
        mark = error.problem_mark
        raise SpecError(
            [
                f"{path}:{mark.line + 1}: {error.problem.split(' with value')[0]}; the key stands twice"
            ]
        ) from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}" if mark else ""
        raise SpecError(
            [f"{path}{where}: not valid YAML: {error.problem or error.context}"]
        ) from None
    except UnicodeDecodeError:
        raise SpecError([f"{path}: not UTF-8 text"]) from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise SpecError([f"{path}: not valid YAML: {error}"]) from None
    if not isinstance(tree, CommentedMap):
        raise SpecError([f"{path}: expected a mapping of keys to values"])
    return Document(path, tree)

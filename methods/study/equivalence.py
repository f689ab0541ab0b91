"""Code edits that were shown to leave every number as it was.

`workflows/rekeyed.json` is a reviewed list of `{module, old, new, why}`: the closure `new` of a module gives the
same numbers as `old`, so runs made by `old` still count.  `python -m methods rekey` writes it, and only after the
`quick` tables of both were bit-identical.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from methods.study.closure import PACKAGE, code_hash
from methods.study.errors import RetrofitError

PATH = PACKAGE.parent / "workflows" / "rekeyed.json"


def read(path: Path = PATH) -> list[dict[str, str]]:
    """The recorded equivalences, oldest first."""
    if not path.is_file():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [{key: row[key] for key in ("module", "old", "new", "why")} for row in rows]
    except (ValueError, KeyError, TypeError):
        raise RetrofitError(
            f"{path} is damaged: expected a list of module, old, new, why"
        ) from None


@cache
def _older() -> dict[tuple[str, str], str]:
    return {(row["module"], row["new"]): row["old"] for row in read()}


def code_of(module: str) -> str:
    """The closure hash of a module, or the oldest one it is recorded to be equal to."""
    found, seen = code_hash(module), set()
    while (module, found) in _older() and found not in seen:
        seen.add(found)
        found = _older()[module, found]
    return found

"""Data frames that an R package keeps as `.rda`, read without R.

The format is R's serialisation in its XDR form (R Internals, "Serialization Formats"); only what a data frame
is made of is known here: pairlists, symbols, lists, vectors of numbers and text, and their attributes.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

SYMBOL, PAIRLIST, CHARACTER, LOGICAL, INTEGER, REAL, TEXT, LIST = 1, 2, 9, 10, 13, 14, 16, 19
POINTER = 22
"""data.table leaves an external pointer among a frame's attributes; it counts as a symbol."""
NIL, NIL_VALUE, REFERENCE, ALTREP = 0, 254, 255, 238
MISSING_INTEGER = -(2**31)
MAGIC = {b"RDX2\nX\n": 2, b"RDX3\nX\n": 3}


def read_frames(body: bytes) -> dict[str, dict[str, np.ndarray | list[str | None]]]:
    """{name of the data frame: {column: values}} of a decompressed `.rda` file.

    Numbers become float64 with NaN for a missing value, text and factors lists of str or None.
    ValueError for anything that is not a file of data frames.
    """
    reader = _Reader(body)
    try:
        return {name: _columns(name, value) for name, value in reader.top()}
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the .rda file is damaged: {error}") from None


def _columns(name: str, value: Any) -> dict[str, np.ndarray | list[str | None]]:
    items, attributes = value if isinstance(value, tuple) else (None, {})
    names = attributes.get("names", (None,))[0]
    if not isinstance(items, list) or not names or len(names) != len(items):
        raise ValueError(f"{name} is not a data frame")
    columns = {}
    for column, (values, own) in zip(names, items, strict=True):
        if "levels" in own:
            levels = own["levels"][0]
            values = [None if np.isnan(code) else levels[int(code) - 1] for code in values]
        columns[column] = values
    return columns


class _Reader:
    """A position in the bytes, and the symbols seen, which later items refer to by number."""

    def __init__(self, body: bytes):
        if body[:7] not in MAGIC:
            raise ValueError("not an .rda file in R's binary (XDR) form")
        self.body, self.at, self.symbols = body, 7, []
        version = self.integer()
        if version != MAGIC[body[:7]]:
            raise ValueError(f"an .rda file of format {version} is not known here")
        self.at += 8  # versions of R: the writer's and the oldest reader's
        if version == 3:
            length = self.integer()
            self.at += length  # the native encoding's name

    def integer(self) -> int:
        return self.numbers("i", 1)[0]

    def numbers(self, code: str, count: int) -> tuple:
        size = count * struct.calcsize(">" + code)
        if count < 0 or self.at + size > len(self.body):
            raise ValueError("the .rda file ends too early")
        found = struct.unpack_from(f">{count}{code}", self.body, self.at)
        self.at += size
        return found

    def top(self) -> list[tuple[str, Any]]:
        """(name, value) of the objects that were saved: a pairlist."""
        flags = self.integer()
        if flags & 0xFF != PAIRLIST:
            raise ValueError("the .rda file does not hold named objects")
        return self.pairs(flags)

    def pairs(self, flags: int) -> list[tuple[str, Any]]:
        found = []
        while flags & 0xFF == PAIRLIST:
            if flags & 0x200:
                self.item()  # attributes of the link itself
            tag = self.item() if flags & 0x400 else ""
            found.append((tag, self.item()))
            flags = self.integer()
        if flags & 0xFF not in (NIL, NIL_VALUE):
            raise ValueError("the .rda file has an unfinished list")
        return found

    def item(self) -> Any:
        """A symbol's or string's text, or (values, attributes) of a vector."""
        flags = self.integer()
        kind = flags & 0xFF
        if kind in (NIL, NIL_VALUE):
            return None
        if kind == SYMBOL:
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == REFERENCE:
            return self.symbols[(flags >> 8 or self.integer()) - 1]
        if kind == PAIRLIST:
            return self.pairs(flags)
        if kind == CHARACTER:
            length = self.integer()
            return None if length == -1 else bytes(self.numbers("B", length)).decode()
        if kind == POINTER:
            self.symbols.append(None)
            values = (self.item(), self.item())
        else:
            values = self.compact() if kind == ALTREP else self.vector(kind)
        attributes = dict(self.item() or []) if flags & 0x200 else {}
        return values, attributes

    def vector(self, kind: int) -> Any:
        if kind not in (LOGICAL, INTEGER, REAL, TEXT, LIST):
            raise ValueError(f"R objects of type {kind} are not read here")
        count = self.integer()
        if kind == REAL:
            return np.array(self.numbers("d", count), dtype=np.float64)
        if kind in (LOGICAL, INTEGER):
            values = np.array(self.numbers("i", count), dtype=np.float64)
            return np.where(values == MISSING_INTEGER, np.nan, values)
        return [self.item() for _ in range(count)]

    def compact(self) -> np.ndarray:
        """R's short form of a run of integers: how many, the first, the step."""
        information, state, _ = self.item(), self.item(), self.item()
        if information[0][1] != "compact_intseq":
            raise ValueError(f"R's short form {information[0][1]} is not read here")
        count, first, step = state[0]
        return first + step * np.arange(count)

"""Seeds by hashing: every random stream has a name, and no stream depends on job order or core count."""

from __future__ import annotations

import hashlib


def derive(stream: str, replicate: int | None, data: object = None) -> int:
    """A 63-bit seed for a named stream of one replicate on given data.

    The variant is left out on purpose: variants of a study then see the same samples, the same initial weights
    and the same order of batches, and their differences can be judged in pairs.
    """
    text = f"retrofit|{stream}|{replicate}|{data!r}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1

"""Keys: a run's name changes exactly when something that can change its numbers does (DESIGN: no stale number)."""

from __future__ import annotations

import hashlib
import json
from typing import Any

KEY_VERSION = 1
"""Raise it to invalidate every key at once."""


def canonical(value: Any) -> str:
    """One text for equal values: keys sorted, no spaces, 1.0 and 1 told apart, NaN refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )


def digest(value: Any, length: int = 12) -> str:
    """The first `length` hex digits of the SHA-256 of the canonical text."""
    return hashlib.sha256(canonical(value).encode("utf-8")).hexdigest()[:length]


def run_key(kind: str, spec: dict, seed: int | None, upstream: list[str], code: str) -> str:
    """The key of a run.  Not in it: git revision, host, package versions (recorded in `meta.json` instead)."""
    return digest(
        {
            "version": KEY_VERSION,
            "kind": kind,
            "spec": spec,
            "seed": seed,
            "upstream": upstream,
            "code": code,
        }
    )

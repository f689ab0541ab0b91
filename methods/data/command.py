"""`python -m methods data`: build data sets and say what came of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from methods.data import building, spec
from methods.data.lock import write_lock
from methods.study.errors import RetrofitError, choices


def build_many(names: list[str], root: Path, refresh: bool = False, lock: bool = False) -> None:
    """Build data sets by name (none: all declared); optional ones that cannot be had are only reported."""
    known = spec.declared(root)
    for name in names:
        if name not in known:
            raise RetrofitError(f"there is no data set '{name}'; {choices(name, known)}")
    built, failed, asked = [], [], names or known
    for count, name in enumerate(asked, 1):
        start = time.monotonic()
        print(f"[{count}/{len(asked)}] {name}", file=sys.stderr, flush=True)
        try:
            how = building.build(name, root, refresh)
        except RetrofitError as error:
            if not (spec.find(name, root).optional and name not in names):
                raise
            failed.append(name)
            print(f"  optional, left out: {error}", file=sys.stderr)
            continue
        size = sum(file.stat().st_size for file in (root / name).iterdir())
        built.append((name, how, size, time.monotonic() - start))
    if lock:
        print(write_lock([name for name, *_ in built], root))
    for name, how, size, seconds in built:
        print(f"{name:<16} {how:<8} {size / 1e6:8.1f} MB {seconds:6.1f} s")
    for name in failed:
        print(f"{name:<16} left out (optional)")

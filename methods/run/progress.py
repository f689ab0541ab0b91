"""Progress of long work: a bar on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0


def track(
    iterable: Iterable[T], total: int | None = None, label: str = "", stream: TextIO | None = None
) -> Iterator[T]:
    """Yield from `iterable`, showing how far it is and how long it will take."""
    stream = stream or sys.stderr
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)
    if stream.isatty():
        yield from tqdm(iterable, total=total, desc=label, file=stream, leave=False)
        return
    start = last = time.monotonic()
    for count, item in enumerate(iterable):
        now = time.monotonic()
        if count and now - last >= SECONDS_BETWEEN_LINES:
            last = now
            passed = now - start
            left = f", {_clock(passed / count * (total - count))} left" if total else ""
            print(
                f"{label}: {count}/{total or '?'} after {_clock(passed)}{left}",
                file=stream,
                flush=True,
            )
        yield item


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"

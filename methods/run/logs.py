"""Logs of jobs: everything a run says goes to its file, progress and one clear error to the terminal."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from methods.study.errors import RetrofitError


@contextmanager
def to_file(path: Path | None) -> Iterator[None]:
    """Send log messages and the traceback of an unexpected error to `path` (None: to stderr)."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers = [logging.FileHandler(path, mode="w", encoding="utf-8")]
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers, force=True
    )
    logging.captureWarnings(True)
    try:
        yield
    except (RetrofitError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if path is not None:
            with open(path, "a", encoding="utf-8") as handle:
                traceback.print_exc(file=handle)
            print(f"error: {type(error).__name__}: {error} (traceback in {path})", file=sys.stderr)
            raise SystemExit(1) from None
        raise

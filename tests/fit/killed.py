"""A training run that dies at a row of its history, and the one that goes on from its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from methods.run.checkpoint import Checkpoint
from methods.run.context import Context


class KilledError(Exception):
    pass


def resumed(
    run: Callable[[Context], Any], step: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, list[dict]]:
    """What `run` gives, and its history, after it was killed when it recorded `step`."""

    def context() -> Context:
        rows: list[dict] = []
        return Context(checkpoint=Checkpoint(directory, rows), history=rows)

    first = context()
    monkeypatch.setattr(first.checkpoint, "every", lambda seconds: True)
    record = first.record

    def dying(**row: Any) -> None:
        if row["step"] == step:
            raise KilledError
        record(**row)

    first.record = dying
    with pytest.raises(KilledError):
        run(first)
    second = context()
    return run(second), second.history

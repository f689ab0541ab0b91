"""What a method is given besides its model, data and parameters."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from methods.run.checkpoint import Checkpoint
from methods.run.progress import track
from methods.run.seeds import derive

if TYPE_CHECKING:
    import numpy
    import torch

T = TypeVar("T")


@dataclass
class Context:
    """Seeds, device, progress, checkpoints and logging of one run.

    `Context()` is good for a test or a notebook: it logs, and keeps nothing.
    """

    seed: int | None = 0
    data_identity: Any = None
    device: str = "cpu"
    label: str = "run"
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(None))
    history: list[dict[str, Any]] = field(default_factory=list)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("methods"))

    def seed_for(self, stream: str) -> int:
        """The seed of a named random stream; the same for every variant of a study (see `seeds.derive`)."""
        return derive(stream, self.seed, self.data_identity)

    shared_seed_for = seed_for

    def generator(self, stream: str) -> torch.Generator:
        """A torch generator (CPU) for the stream."""
        import torch

        return torch.Generator().manual_seed(self.seed_for(stream))

    def numpy(self, stream: str) -> numpy.random.Generator:
        """A NumPy generator for the stream."""
        import numpy

        return numpy.random.default_rng(self.seed_for(stream))

    def progress(
        self, iterable: Iterable[T], total: int | None = None, label: str = ""
    ) -> Iterator[T]:
        """Iterate with progress and time left shown to the user."""
        return track(iterable, total, f"{self.label} {label}".strip())

    def record(self, **row: Any) -> None:
        """Append a row of plain values to the run's history."""
        self.history.append(row)

    def write_history(self, path: Path) -> None:
        """Write `history.jsonl`, where there is any history."""
        if self.history:
            lines = (json.dumps(row, allow_nan=True) for row in self.history)
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")

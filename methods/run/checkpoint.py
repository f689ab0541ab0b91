"""Checkpoints of unfinished runs: outside the artifact, atomic, keyed, so they survive SIGKILL."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

FILE = "checkpoint.safetensors"


def _seal(tensors: dict[str, Any], text: str) -> str:
    """A checksum over names, types, shapes and bytes of tensors, and over the state."""
    import torch

    found = hashlib.sha256(text.encode("utf-8"))
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


class Checkpoint:
    """The one checkpoint of a run.  `directory=None` keeps nothing (for tests and notebooks).

    `history` is the run's list of recorded rows: it is saved with the state and restored in place, so that a
    resumed run's history has no gap.
    """

    def __init__(self, directory: Path | None, history: list[dict[str, Any]] | None = None):
        self.directory = directory
        self.history = history if history is not None else []
        self._last = time.monotonic()

    def every(self, seconds: float) -> bool:
        """True when `seconds` have passed since the last save (or the start)."""
        return self.directory is not None and time.monotonic() - self._last >= seconds

    def save(self, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        """Replace the checkpoint by `tensors` (torch) and `state` (JSON), atomically."""
        if self.directory is None:
            return
        from safetensors.torch import save_file

        self.directory.mkdir(parents=True, exist_ok=True)
        aside = self.directory / f".{FILE}.{os.getpid()}"
        # Cloned: safetensors refuses tensors that share memory.
        whole = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
        text = json.dumps({"state": state, "history": self.history})
        save_file(whole, aside, metadata={"state": text, "seal": _seal(whole, text)})
        with open(aside, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(aside, self.directory / FILE)
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """`{"tensors": …, "state": …}` of the last save, or None where there is none.

        A damaged file is named, set aside and not used: the run then starts from its beginning.
        """
        if self.directory is None or not (self.directory / FILE).is_file():
            return None
        from safetensors import SafetensorError, safe_open

        path = self.directory / FILE
        try:
            with safe_open(path, framework="pt") as file:
                said = file.metadata() or {}
                saved = json.loads(said["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if said["seal"] != _seal(tensors, said["state"]):
                raise ValueError("its content is not what was saved")
        except (SafetensorError, KeyError, ValueError) as error:
            aside = path.with_name(f"damaged-{FILE}")
            os.replace(path, aside)
            print(
                f"warning: {path} is damaged ({error}), kept as {aside}: this run starts from its beginning",
                file=sys.stderr,
                flush=True,
            )
            return None
        self.history[:] = saved["history"]
        return {"tensors": tensors, "state": saved["state"]}

    def clear(self) -> None:
        """Forget the checkpoint: its run is done."""
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)

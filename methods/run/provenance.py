"""What a run records of the machine it ran on: enough to know when bits can be compared."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

RECORDED = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "safetensors", "pydantic")


@cache
def revision() -> dict[str, Any]:
    """Git commit of the code and whether it has uncommitted changes; empty outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        options = {"cwd": root, "capture_output": True, "text": True, "check": True, "timeout": 10}
        commit = subprocess.run(["git", "rev-parse", "HEAD"], **options).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": bool(changes)}


def instruction_set() -> str:
    """The vector instructions that torch uses, or the machine's name where torch is not loaded."""
    torch = sys.modules.get("torch")
    return torch.backends.cpu.get_cpu_capability() if torch else platform.machine()


def versions() -> dict[str, str]:
    """Versions of the packages that can move a number."""
    found = {"python": platform.python_version()}
    for name in RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Stopwatch:
    """Wall seconds, CPU seconds and peak memory of this process."""

    def __init__(self) -> None:
        self.started = time.time()
        self._cpu = time.process_time()

    def read(self) -> dict[str, Any]:
        """Seconds since the start, and the peak resident memory in bytes."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "wall_seconds": round(time.time() - self.started, 3),
            "cpu_seconds": round(time.process_time() - self._cpu, 3),
            "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        }


def environment(device: str, threads: int) -> dict[str, Any]:
    """Everything of the machine that `meta.json` records."""
    return {
        "versions": versions(),
        "git": revision(),
        "device": device,
        "threads": threads,
        "instruction_set": instruction_set(),
        "platform": platform.platform(terse=True),
        "cores": os.cpu_count(),
    }

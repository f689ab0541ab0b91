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

DISPATCHED = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
"""Processor features by which the numerical libraries choose their kernels, and so the order of sums."""
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


@cache
def processor() -> str:
    """Vendor, family/model and the features that kernels are chosen by.

    Two processors with the same vector instructions still differ in the last bits where a library tunes its kernels to
    the model; so does NumPy's library where OPENBLAS_CORETYPE chooses for it.
    """
    file = Path("/proc/cpuinfo")
    first = file.read_text(encoding="utf-8").partition("\n\n")[0] if file.is_file() else ""
    facts = {
        name.strip(): value.strip()
        for name, colon, value in (line.partition(":") for line in first.splitlines())
        if colon
    }
    if "vendor_id" not in facts:
        name = platform.processor() or platform.machine()
    else:
        has = set(facts.get("flags", "").split())
        model = f"{facts['vendor_id']} {facts.get('cpu family')}/{facts.get('model')}"
        name = " ".join([model, *(feature for feature in DISPATCHED if feature in has)])
    chosen = os.environ.get("OPENBLAS_CORETYPE")
    return f"{name} (OpenBLAS: {chosen})" if chosen else name


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
        "processor": processor(),
        "platform": platform.platform(terse=True),
        "cores": os.cpu_count(),
    }

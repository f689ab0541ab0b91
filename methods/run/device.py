"""Device slots: each `gpu: 1` job holds one GPU by a file lock, since Snakemake assigns none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from methods.study.errors import RetrofitError


def visible_gpus() -> list[str]:
    """GPU identifiers that this job may use; empty without CUDA."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [gpu for gpu in chosen.split(",") if gpu and gpu != "-1"]
    return sorted(node.name.removeprefix("nvidia") for node in Path("/dev").glob("nvidia[0-9]*"))


@contextmanager
def slot(gpus: int, work: Path) -> Iterator[str]:
    """Hold one device for the block: "cpu" for jobs that ask for no GPU, otherwise "cuda:0" of a free one."""
    if not gpus:
        yield "cpu"
        return
    candidates = visible_gpus()
    for gpu in candidates:
        lock = FileLock(work / "locks" / f"gpu-{gpu}.lock", timeout=0)
        lock.lock_file and Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            with lock:
                os.environ["CUDA_VISIBLE_DEVICES"] = gpu
                yield "cuda:0"
                return
        except Timeout:
            continue
    raise RetrofitError(
        f"the job asks for a GPU; {len(candidates)} are visible and none is free"
        if candidates
        else "the job asks for a GPU, and this machine shows none"
    )

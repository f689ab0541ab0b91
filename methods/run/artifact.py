"""Run directories: written aside, checked, renamed into place.  What is there is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from methods.study.errors import RetrofitError

META = "meta.json"
SEAL = "seal"
"""In `meta.json`: a checksum of everything else in it. Runs made before there were seals have none."""


def sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def writing(directory: Path) -> Iterator[Path]:
    """A directory beside `directory` that takes its place when the block ends without an error.

    Nothing half-written is ever at `directory`: after an error, a full disk or a kill it is not there.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = directory.parent / f".aside-{directory.name}-{os.getpid()}"
    # What a killed process of this run left behind; its lock was free, so it is gone.
    for left in directory.parent.glob(f".aside-{directory.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        aside.mkdir()
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        if directory.exists():
            shutil.rmtree(directory)
        os.rename(aside, directory)
    except Exception as error:
        if _disk_is_full(error):
            free = shutil.disk_usage(directory.parent).free
            raise RetrofitError(
                f"the disk is full: {directory} could not be written ({free / 1e6:.0f} MB free); nothing was kept"
            ) from None
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _disk_is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    # safetensors has errors of its own, which carry the system's number as text.
    return any(f"(os error {number})" in str(error) for number in (errno.ENOSPC, errno.EDQUOT))


def write_meta(directory: Path, meta: dict[str, Any]) -> None:
    """Write `meta.json` with a seal over all that it says."""
    sealed = {**meta, SEAL: _seal(meta)}
    text = json.dumps(sealed, indent=1, sort_keys=True) + "\n"
    (directory / META).write_text(text, encoding="utf-8")


def _seal(meta: dict[str, Any]) -> str:
    said = {name: value for name, value in meta.items() if name != SEAL}
    # As it will be read: JSON knows neither tuples nor keys that are numbers.
    text = json.dumps(json.loads(json.dumps(said)), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def read_meta(directory: Path) -> dict[str, Any] | None:
    """The run's `meta.json`, or None where there is no finished run; RetrofitError where it is damaged."""
    path = directory / META
    if not path.is_file():
        return None
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(meta["files"], dict) and meta.get(SEAL, _seal(meta)) == _seal(meta)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise RetrofitError(f"{path} is damaged; delete {directory} and run again")
    return meta


def is_done(directory: Path, key: str) -> bool:
    """A finished run with this key whose files are all there, with their sizes."""
    return (directory / META).is_file() and damage(directory, key) is None


def check_files(directory: Path, deep: bool | frozenset[str] = False) -> list[str]:
    """What is wrong with a finished run's files: missing, another size or another checksum.

    deep: whether checksums are computed, or the names of the files whose are.
    """
    meta = read_meta(directory)
    if meta is None:
        return [f"{directory}: no {META}"]
    problems = []
    for name, entry in meta["files"].items():
        path = directory / name
        if not path.is_file():
            problems.append(f"{path} is missing")
        elif path.stat().st_size != entry["bytes"]:
            problems.append(f"{path} has {path.stat().st_size} bytes, expected {entry['bytes']}")
        elif (deep is True or (deep and name in deep)) and (found := sha256(path)) != entry[
            "sha256"
        ]:
            problems.append(f"{path} is damaged: sha256 {found}, expected {entry['sha256']}")
    return problems


def damage(directory: Path, key: str, deep: bool | frozenset[str] = False) -> str | None:
    """The first thing wrong with a run that seems finished; None for a sound one, and where there is none.

    deep as for `check_files`.
    """
    try:
        meta = read_meta(directory)
    except RetrofitError as error:
        return str(error).split(";")[0]
    if meta is None:
        return None
    if meta.get("key") != key:
        return f"{directory / META} is of another run: key {meta.get('key')}, expected {key}"
    problems = check_files(directory, deep)
    return problems[0] if problems else None


def list_files(directory: Path) -> dict[str, dict[str, Any]]:
    """`{name: {sha256, bytes}}` of everything below a directory but `meta.json`."""
    return {
        file.relative_to(directory).as_posix(): {
            "sha256": sha256(file),
            "bytes": file.stat().st_size,
        }
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name != META
    }


@contextmanager
def only_one(name: str, work: Path) -> Iterator[None]:
    """Hold the run's lock; RetrofitError if another process is making the same run."""
    lock = work / "locks" / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise RetrofitError(
            f"another process is making {name} right now (it holds {lock})"
        ) from None

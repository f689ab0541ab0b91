"""Building a data set: bytes that are there and right, then DVC, then its sources; always the same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from methods.data import formats, kinds, lock, sources, spec
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.run.context import Context


def build_run(name: str, root: Path, context: Context) -> None:
    """The data run of the workflow: nothing but the data folder changes."""
    build(name, root)


def build(name: str, root: Path, refresh: bool = False) -> str:
    """Make `root/name` right; how it came about: "present", "pulled" or "built".

    Raises RetrofitError when no source serves, or when what was built is not what `data.dvc` says.
    """
    root = Path(root)
    directory = root / name
    declaration = spec.find(name, root)
    expected = lock.locked(root).get(name)
    with _only_one(directory):
        if not refresh:
            if expected is None and (directory / formats.INDEX).is_file():
                return "present"
            if expected and directory.is_dir():
                found = lock.content_hash(directory)[0]
                if found == expected["md5"]:
                    return "present"
                print(
                    f"{directory} is not what {lock.lock_file(root).name} says ({found}, expected {expected['md5']}): "
                    "making it again",
                    file=sys.stderr,
                )
            if expected and _pulled(directory, expected["md5"]):
                return "pulled"
        files: dict[str, Path] = {}
        for group in declaration.parts:
            files |= sources.obtain(name, declaration.files, group)
        options = declaration.options
        builder = spec.builders.find(options.name)
        try:
            content = builder.build(
                {
                    file: path if spec.is_folder(file) else path.read_bytes()
                    for file, path in files.items()
                },
                options,
            )
        except (ValueError, KeyError, IndexError) as error:
            raise RetrofitError(
                f"data set '{name}' could not be built from its files: {error}"
            ) from error
        _put(directory, content)
    if expected and not refresh:
        found = lock.content_hash(directory)[0]
        if found != expected["md5"]:
            names = ", ".join(sorted(path.name for path in directory.iterdir()))
            raise RetrofitError(
                f"data set '{name}' is not what {lock.lock_file(root).name} says: {found}, expected {expected['md5']} "
                f"({names}); if the change is meant, run: python -m methods data {name} --refresh --lock"
            )
    return "built"


def _put(directory: Path, content: dict[str, kinds.Split]) -> None:
    aside = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        formats.write(aside, content)
        shutil.rmtree(directory, ignore_errors=True)
        os.rename(aside, directory)
    except OSError as error:
        raise RetrofitError(f"{directory} could not be written: {error.strerror}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _pulled(directory: Path, md5: str) -> bool:
    """Try `dvc pull` where a remote is configured; whether the right bytes are there now."""
    project = directory.absolute().parents[1]
    configured = project / ".dvc" / "config"
    local = project / ".dvc" / "config.local"
    if not any(
        file.is_file() and "remote" in file.read_text(encoding="utf-8")
        for file in (configured, local)
    ):
        return False
    words = [
        sys.executable,
        "-m",
        "dvc",
        "pull",
        "--quiet",
        "--force",
        directory.relative_to(project.resolve()).as_posix()
        if directory.is_absolute()
        else directory.as_posix(),
    ]
    done = subprocess.run(
        words, cwd=project, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"dvc pull {directory.name}: {last}; building from the sources", file=sys.stderr)
        return False
    return directory.is_dir() and lock.content_hash(directory)[0] == md5


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    from filelock import FileLock

    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.parent / f".{directory.name}.lock"):
        yield

"""Runs that seem finished and are damaged: set aside before anything is planned on them, so that they are made again.

A cut file shows by its size, which is looked at for every run. A flipped bit shows by the checksum, which is computed
where the file will be read: what a pending run starts from, and the metrics behind a table that has to be rendered.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from methods.run.artifact import META, damage
from methods.study.expansion import Run

TABLES_READ = frozenset({"metrics.json", "history.jsonl"})
DAMAGED = "damaged"
"""Folder in the results folder for what was set aside."""


def set_damaged_aside(
    runs: dict[str, Run],
    results: Path,
    shown: Iterable[str],
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Names of the runs of a plan that were damaged, and are now in `<results>/damaged/`.

    runs: every run of the plan by name, upstream before downstream. shown: names of runs whose metrics a table that
        is not published yet will show. Running it twice finds nothing more.
    """
    say = say or _warn
    found: list[str] = []
    seen, whole = set(shown), set()
    todo = list(runs)
    while todo:
        for name in todo:
            directory = results / runs[name].directory
            deep = True if name in whole else TABLES_READ if name in seen else False
            if why := damage(directory, runs[name].key, deep):
                say(f"{why}: kept as {_set_aside(directory, results)} and made again")
                found.append(name)
        pending = [run for run in runs.values() if not (results / run.directory / META).is_file()]
        read = {upstream.name for run in pending for upstream in run.upstream.values()}
        todo = [name for name in runs if name in read - whole]
        whole |= read
    return found


def _set_aside(directory: Path, results: Path) -> Path:
    place = results / DAMAGED
    place.mkdir(parents=True, exist_ok=True)
    number = 1
    while (aside := place / f"{directory.name}.{number}").exists():
        number += 1
    os.rename(directory, aside)
    return aside


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)

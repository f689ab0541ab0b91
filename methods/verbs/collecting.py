"""`gc`: runs, checkpoints and logs that no tier of any known study asks for and no published table shows."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from methods.run.artifact import META
from methods.study.errors import RetrofitError
from methods.study.expansion import KINDS, Run, plan
from methods.study.specification import TIERS
from methods.verbs.mending import DAMAGED
from methods.verbs.planning import all_studies, find_study, outdir
from methods.verbs.publishing import file_of_table


@dataclass(frozen=True)
class Unneeded:
    """A folder or file that may go, and why."""

    path: Path
    why: str
    bytes: int


def needed(studies: Iterable[Path]) -> dict[str, Run]:
    """Every run by name that any tier of the studies asks for, optional data included.

    Raises what planning raises: with one study that cannot be read, nothing is known to be unneeded.
    """
    found: dict[str, Run] = {}
    for path in studies:
        for tier in TIERS:
            found |= plan(path, tier, without={}).runs()
    return found


def shown(results: Path) -> set[str]:
    """Runs behind published tables: after an edit of code they may be what `rekey` will speak for."""
    found: set[str] = set()
    for tier in TIERS:
        for table in (outdir(results, tier) / "tables").glob("*.json"):
            try:
                runs = json.loads(table.read_text(encoding="utf-8"))["runs"]
            except (ValueError, KeyError) as error:
                raise RetrofitError(
                    f"{table} cannot be read ({error}); nothing was deleted"
                ) from None
            found |= {name.partition("/")[2] for name in runs}
    return found


def unneeded(
    kept: dict[str, Run], results: Path, work: Path, spared: set[str] = frozenset()
) -> list[Unneeded]:
    """What lies in the results and scratch folders and belongs to none of the runs, largest first."""
    found = []
    for kind in KINDS:
        for directory in sorted((results / "runs" / kind).glob("*")):
            if directory.name not in kept and directory.name not in spared:
                why = (
                    "half of a killed run"
                    if directory.name.startswith(".")
                    else "no study asks for it"
                )
                found.append(_sized(directory, why))
    found += [_sized(path, "was damaged") for path in sorted((results / DAMAGED).glob("*"))]
    open_keys = {run.key for run in kept.values() if not (results / run.directory / META).is_file()}
    for checkpoint in sorted((work / "checkpoints").glob("*")):
        if checkpoint.name not in open_keys:
            found.append(_sized(checkpoint, "checkpoint of a run that is done or not asked for"))
    for kind in KINDS:
        for log in sorted((results / "logs" / kind).glob("*.log")):
            if log.stem not in kept and log.stem not in spared:
                found.append(_sized(log, "log of a run that no study asks for"))
    return sorted(found, key=lambda one: -one.bytes)


def _sized(path: Path, why: str) -> Unneeded:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return Unneeded(path, why, sum(file.lstat().st_size for file in files))


def collect(
    also: list[str],
    results: Path,
    work: Path,
    yes: bool = False,
    ask: Callable[[str], str] = input,
) -> int:
    """Show what may go, ask, and delete it; 1 where the answer was no.

    also: studies outside `configs/studies/` whose runs stay. Those that a table is published of stay anyway.
    Raises RetrofitError while a snakemake works on the results.
    """
    (results / "runs").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(results / "runs" / ".lock", timeout=0):
            return _collect(also, results, work, yes, ask)
    except Timeout:
        raise RetrofitError(f"a snakemake is making {results}/; wait until it is done") from None


def _collect(
    also: list[str], results: Path, work: Path, yes: bool, ask: Callable[[str], str]
) -> int:
    published = {
        file_of_table(table)
        for tier in TIERS
        for table in (outdir(results, tier) / "tables").glob("*.json")
    }
    elsewhere = {path for path in published if path.is_file()} | {find_study(one) for one in also}
    runs = needed({*all_studies(), *elsewhere})
    found = unneeded(runs, results, work, shown(results))
    if not found:
        print("nothing to delete: every run is one that a study asks for")
        return 0
    for one in found[:20]:
        print(f"{one.bytes / 1e6:10,.1f} MB  {one.path}  ({one.why})")
    if len(found) > 20:
        rest = sum(one.bytes for one in found[20:])
        print(f"{rest / 1e6:10,.1f} MB  {len(found) - 20} more")
    total = sum(one.bytes for one in found) / 1e9
    if not yes:
        if not sys.stdin.isatty() and ask is input:
            raise RetrofitError(f"{len(found)} things, {total:.1f} GB: add --yes to delete them")
        if ask(f"delete {len(found)} things, {total:.1f} GB? [y/N] ").strip().lower() not in (
            "y",
            "yes",
        ):
            print("nothing was deleted")
            return 1
    for one in found:
        one.path.unlink() if one.path.is_file() else shutil.rmtree(one.path)
    print(f"deleted {len(found)} things, {total:.1f} GB")
    return 0

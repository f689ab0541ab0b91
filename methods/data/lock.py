"""`data.dvc`: which bytes every data set must have.  Real DVC, read and checked without calling it.

One file holds one `outs` entry for each data set, so `dvc pull data/wikipedia` works as well as `dvc pull`.  The
entry's `meta` carries the hash of the declaration, so an edited declaration is noticed before anything is built.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from methods.data import spec
from methods.study.errors import RetrofitError


def lock_file(root: Path) -> Path:
    """`data.dvc` beside the data folder."""
    return Path(root).absolute().parent / "data.dvc"


def locked(root: Path = Path("data")) -> dict[str, dict[str, Any]]:
    """{data set: its entry of `data.dvc`}; empty without the file."""
    path = lock_file(root)
    if not path.is_file():
        return {}
    try:
        outs = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["outs"]
        return {Path(entry["path"]).name: entry for entry in outs}
    except (YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RetrofitError(
            f"{path} is damaged: {error}; `git checkout {path.name}` brings it back"
        ) from None


def data_key(name: str, root: Path = Path("data")) -> dict[str, Any]:
    """What the planner keys a data set by: its declaration and, where locked, the hash of its bytes.

    Raises RetrofitError where the declaration was edited after it was locked.
    """
    declaration = spec.find(name, root).declaration
    entry = locked(root).get(name)
    if entry is None:
        return {"declaration": declaration}
    if entry.get("meta", {}).get("declaration") != declaration:
        raise RetrofitError(
            f"configs/datasets/{name}.yaml was changed after {lock_file(root).name} was written; "
            f"run: python -m methods data {name} --refresh --lock"
        )
    return {"declaration": declaration, "content": entry["md5"]}


def unavailable(name: str, root: Path = Path("data")) -> str | None:
    """Why an *optional* data set cannot be had on this machine, in a sentence; None where it can.

    Decided without the network: the set is built, its raw files are cached, or the client of a source is here.  A
    web address or the hub may not answer, so a set with no other source has to be built by name first.
    """
    declaration = spec.find(name, root)
    if not declaration.optional or (Path(root) / name / "dataset.json").is_file():
        return None
    from methods.data import sources

    for group in declaration.parts:
        reasons = [sources.hindrance(source, declaration.files) for source in group]
        if None not in reasons:
            return f"data set {name}: {'; '.join(filter(None, reasons))}"
    return None


def content_hash(directory: Path) -> tuple[str, int, int]:
    """DVC's hash of a directory, its size in bytes and its number of files."""
    rows, size = [], 0
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        with open(file, "rb") as handle:
            md5 = hashlib.file_digest(handle, "md5").hexdigest()
        rows.append({"md5": md5, "relpath": file.relative_to(directory).as_posix()})
        size += file.stat().st_size
    rows.sort(key=lambda row: row["relpath"])
    text = json.dumps(rows, sort_keys=True).encode("utf-8")
    return hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir", size, len(rows)


def write_lock(names: list[str], root: Path = Path("data")) -> Path:
    """Write the entries of built data sets into `data.dvc`, leaving the others as they are."""
    entries = locked(root)
    for name in names:
        md5, size, files = content_hash(Path(root) / name)
        entries[name] = {
            "path": f"{Path(root).name}/{name}",
            "md5": md5,
            "size": size,
            "nfiles": files,
            "hash": "md5",
            "meta": {"declaration": spec.find(name, root).declaration},
        }
    yaml = YAML()
    yaml.default_flow_style = False
    path = lock_file(root)
    with open(path, "w", encoding="utf-8") as handle:
        yaml.dump({"outs": [entries[name] for name in sorted(entries)]}, handle)
    return path

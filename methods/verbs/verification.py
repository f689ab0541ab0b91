"""`verify`, `compare`, `rekey`: is what is committed what this code and these settings give?"""

from __future__ import annotations

import json
from pathlib import Path

from methods.run import artifact
from methods.study import equivalence
from methods.study.closure import code_hash
from methods.study.errors import RetrofitError
from methods.study.expansion import plan
from methods.verbs.planning import all_studies, check_tier, find_study, outdir, study_name


def verify(studies: list[str], tier: str, results: Path, deep: bool = False) -> int:
    """Recompute every key, train nothing; 0 if each committed table is what the configuration asks for."""
    from methods.report.command import edited, read, stale

    check_tier(tier)
    out = outdir(results, tier)
    paths = [find_study(study) for study in studies] if studies else all_studies()
    problems, tables = [], []
    for path in paths:
        table = out / "tables" / f"{study_name(path)}.json"
        if not table.is_file():
            problems.append(f"{table}: there is no table; run: snakemake --config tier={tier}")
            continue
        tables.append(table)
        try:
            # The committed table says which optional data it had; this machine's are not asked.
            without = read(table)["left_out"]
        except RetrofitError as error:
            problems.append(str(error))
            continue
        found = [
            f"{table}: {problem}" for problem in stale(table, plan(path, tier, without=without))
        ]
        problems += found
        if not found:
            print(f"{table}: current")
    # The front page shows every study at once, so it is looked at when all are.
    if not problems and not studies:
        problems += [
            f"{path}: is not what the tables say (edited or missing); run: snakemake --config tier={tier}"
            for path in edited(tables, out)
        ]
    if deep:
        problems += _damaged(results)
    for problem in problems:
        print(f"STALE {problem}")
    return 1 if problems else 0


def _damaged(results: Path) -> list[str]:
    """Checksums of every artifact that is here."""
    found = []
    for meta in sorted((results / "runs").glob("*/*/meta.json")):
        try:
            found += artifact.check_files(meta.parent, deep=True)
        except RetrofitError as error:
            found.append(str(error))
    return found


def compare(expected: Path, new: Path) -> int:
    """Compare tables cell by cell; prints a Markdown difference.  1 on drift."""
    from methods.report.drift import compare as drift

    pairs = _pairs(expected, new)
    failed = False
    for left, right in pairs:
        outcome = drift(left, right)
        print(outcome.markdown)
        failed |= not outcome.passed
    return 1 if failed else 0


def _pairs(expected: Path, new: Path) -> list[tuple[Path, Path]]:
    """Two files, or the files of two folders; a table without its partner is an error."""
    if expected.is_file() and new.is_file():
        return [(expected, new)]
    if not (expected.is_dir() and new.is_dir()):
        raise RetrofitError(f"compare needs two files or two folders; found {expected} and {new}")
    left = {path.name.split(".")[0]: path for path in sorted(expected.glob("*.json"))}
    right = {path.name.split(".")[0]: path for path in sorted(new.glob("*.json"))}
    if not left:
        raise RetrofitError(f"{expected} holds no expectation")
    alone = sorted(left.keys() ^ right.keys())
    if alone:
        raise RetrofitError(f"no partner for {', '.join(alone)} in {expected} and {new}")
    return [(left[name], right[name]) for name in left]


def rekey(studies: list[str], results: Path) -> int:
    """Record that code moved and numbers did not.

    For each study, the `quick` table that the code as it is now made must equal the committed expectation bit by
    bit.  Then the closures behind the committed `full` table are recorded as equal to today's, as far as the `quick`
    tier runs their modules: of others it says nothing.
    """
    paths = [find_study(study) for study in studies] if studies else all_studies()
    rows = equivalence.read()
    untried: dict[str, str] = {}
    for path in paths:
        tried = _modules(_must_be_identical(path, results))
        table = json.loads(
            (results / "tables" / f"{study_name(path)}.json").read_text(encoding="utf-8")
        )
        for run in table["runs"].values():
            module = run["implementation"].split(":")[0]
            row = {"module": module, "old": run["code"], "new": code_hash(module)}
            if (
                run["code"]
                and row["old"] != row["new"]
                and equivalence.code_of(module) != run["code"]
            ):
                if module not in tried:
                    untried.setdefault(module, study_name(path))
                    continue
                row["why"] = f"the quick tables of {study_name(path)} are bit-identical"
                if not any(
                    all(known[k] == row[k] for k in ("module", "old", "new")) for known in rows
                ):
                    rows.append(row)
                    print(f"{module}: {row['old']} = {row['new']}")
    equivalence.PATH.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{equivalence.PATH}: review and commit it")
    for module, study in untried.items():
        print(
            f"{module}: the quick tier of {study} does not run it, so nothing is known of its numbers; "
            f"run: snakemake --config study={study} tier=full"
        )
    return 1 if untried else 0


def _modules(table: Path) -> set[str]:
    """Modules whose runs are behind a table."""
    runs = json.loads(table.read_text(encoding="utf-8"))["runs"].values()
    return {run["implementation"].split(":")[0] for run in runs}


def _must_be_identical(path: Path, results: Path) -> Path:
    """The quick table, which equals its expectation; RetrofitError otherwise."""
    from methods.report.command import stale
    from methods.report.drift import compare as drift

    quick = results / "quick" / "tables" / f"{study_name(path)}.json"
    expected = results / "expected" / f"{study_name(path)}.quick.json"
    if not quick.is_file() or not expected.is_file():
        raise RetrofitError(
            f"rekey needs {quick} and {expected}; run: snakemake --config tier=quick"
        )
    moved = stale(quick, plan(path, "quick"))
    if moved:
        raise RetrofitError(
            f"{quick} was not made by this code; run: snakemake --config tier=quick"
        )
    outcome = drift(expected, quick, exact=True)
    if not outcome.passed:
        print(outcome.markdown)
        raise RetrofitError(
            f"the quick numbers of {study_name(path)} moved, so its runs must be made again"
        )
    return quick

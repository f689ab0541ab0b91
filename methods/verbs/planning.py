"""Plans of studies, the specification files that jobs read, and how long runs may take."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from methods.study.errors import RetrofitError, choices
from methods.study.expansion import NothingToRunError, Plan, Run, plan
from methods.study.specification import TIERS

STUDIES = Path("configs/studies")


def find_study(name: str | Path) -> Path:
    """A study's file: a path as given, or a name in `configs/studies/`."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise RetrofitError(f"there is no study file {path}")
        return path
    known = {file.stem: file for file in sorted(STUDIES.glob("*.yaml"))}
    if str(name) not in known:
        raise RetrofitError(f"there is no study '{name}' in {STUDIES}/; {choices(name, known)}")
    return known[str(name)]


def study_name(path: Path) -> str:
    """What the file calls its study; its tables are named so."""
    from methods.study import strict_yaml

    name = strict_yaml.load(path).value.get("study")
    return name if isinstance(name, str) else path.stem


def check_tier(tier: str) -> None:
    """RetrofitError for a tier that does not exist."""
    if tier not in TIERS:
        raise RetrofitError(f"tier '{tier}' does not exist; {choices(tier, TIERS)}")


def all_studies() -> list[Path]:
    """Every study of `configs/studies/`, by name."""
    found = sorted(STUDIES.glob("*.yaml"))
    if not found:
        raise RetrofitError(f"there is no study in {STUDIES}/ (are you in the project's folder?)")
    return found


def plan_all(studies: list[str] | list[Path], tier: str, work: Path = Path("work")) -> list[Plan]:
    """Plan studies and write `<work>/specs/<run>.json` for every run.

    A study all of whose data is missing is planned as if it were there, so that a person sees what the tier asks
    for; `tier_missing` says what is missing.
    """
    plans = [_plan(find_study(study), tier) for study in studies]
    for one in plans:
        write_specs(one, work)
    return plans


def _plan(path: Path, tier: str) -> Plan:
    try:
        return plan(path, tier)
    except NothingToRunError as nothing:
        return replace(plan(path, tier, without={}), missing=nothing.reasons)


def write_specs(plan: Plan, work: Path) -> None:
    """One small file for each run: what a job needs to do its work.  A damaged one is written anew."""
    directory = work / "specs"
    directory.mkdir(parents=True, exist_ok=True)
    present = {entry.name: entry.stat().st_size for entry in os.scandir(directory)}
    for name, run in plan.runs().items():
        body = (json.dumps(run.describe(), indent=1, sort_keys=True) + "\n").encode("utf-8")
        path = directory / f"{name}.json"
        if present.get(path.name) != len(body) or path.read_bytes() != body:
            aside = directory / f".{name}.{os.getpid()}"
            aside.write_bytes(body)
            os.replace(aside, path)


def read_spec(name: str, work: Path) -> dict:
    """The specification of a run by name, which planning has written."""
    path = work / "specs" / f"{name}.json"
    if not path.is_file():
        raise RetrofitError(
            f"there is no run '{name}' ({path} is missing); `python -m methods plan STUDY` lists and writes them"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def outdir(results: Path, tier: str) -> Path:
    """Tables of the `full` tier stand in the results folder itself, other tiers in one of their own."""
    return results if tier == "full" else results / tier


def tier_missing(plan: Plan) -> str | None:
    """Why the tier cannot run on this machine: what it says it needs, where that is not there."""
    from methods.run.device import visible_gpus

    spec = plan.study.tiers.get(plan.tier)
    if spec is not None and spec.needs and (plan.missing or not visible_gpus()):
        return f"{plan.path}: tier {plan.tier} needs {spec.needs}"
    if plan.missing:
        reasons = "; ".join(plan.missing.values())
        return f"{plan.path}: tier {plan.tier} leaves no run: {reasons}"
    return None


def show(plans: list[Plan], results: Path) -> str:
    """A table of runs: cached or missing, and the time they took or are likely to take."""
    from methods.run.artifact import is_done, read_meta

    took = _past_seconds(results)
    rows, missing_seconds, unknown = [], 0.0, 0
    for one in plans:
        for name, run in one.runs().items():
            directory = results / run.directory
            done = is_done(directory, run.key)
            if done:
                seconds = (read_meta(directory) or {}).get("wall_seconds")
                text = f"took {seconds:.1f} s"
            else:
                seconds = took.get(_likeness(run.kind, run.slug, run.spec)) or took.get(
                    (run.kind, run.slug)
                )
                text = f"about {seconds:.0f} s" if seconds else "time unknown"
                missing_seconds += seconds or 0.0
                unknown += seconds is None
            rows.append((one.study.study, run.kind, name, "cached" if done else "missing", text))
        for setting, reason in one.left_out.items():
            rows.append((one.study.study, "-", f"setting {setting}", "left out", reason))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        "  ".join([*(text.ljust(w) for text, w in zip(row, widths, strict=False)), row[4]])
        for row in rows
    ]
    missing = sum(row[3] == "missing" for row in rows)
    lines.append(
        f"{len(rows)} runs, {missing} missing, about {missing_seconds:.0f} s of work"
        + (f" and {unknown} of unknown length" if unknown else "")
    )
    return "\n".join(lines)


def _likeness(kind: str, slug: str, spec: dict) -> tuple:
    return kind, slug, json.dumps(spec.get("params"), sort_keys=True)


def _past_seconds(results: Path) -> dict[tuple, float]:
    """Wall seconds of finished runs, by kind and slug, and more closely by parameters too.

    Where nothing has run yet, those of the committed tables, which another machine may have made.
    """
    took: dict[tuple, float] = {}
    for table in sorted(results.glob("*/*.json")):
        try:
            runs = json.loads(table.read_text(encoding="utf-8"))["runs"].values()
            for run in (run for run in runs if "wall_seconds" in run):
                took[run["kind"], run["slug"]] = run["wall_seconds"]
                took[_likeness(run["kind"], run["slug"], run["spec"])] = run["wall_seconds"]
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    for meta_file in sorted((results / "runs").glob("*/*/meta.json")):
        try:
            meta = json.loads(meta_file.read_text(encoding="utf-8"))
            took[meta["kind"], meta["slug"]] = meta["wall_seconds"]
            took[_likeness(meta["kind"], meta["slug"], meta["spec"])] = meta["wall_seconds"]
        except (ValueError, KeyError):
            continue  # a damaged file is verify's business
    return took


def run_of(plans: list[Plan], name: str) -> Run:
    """The planned run of that name."""
    for one in plans:
        if name in one.runs():
            return one.runs()[name]
    raise RetrofitError(f"no planned run is called '{name}'")

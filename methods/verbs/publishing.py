"""Tables, claims and the report page: rendered when anything behind them changed, whatever the file times say.

What is published stands at fixed paths (`results/tables/awq.md`), so its being there proves nothing.  A stamp
whose name carries a key does: the key covers the runs, what the study says of its tables, and the rendering code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from methods.run.artifact import sha256
from methods.study.equivalence import code_of
from methods.study.errors import RetrofitError
from methods.study.expansion import Plan
from methods.study.keys import digest
from methods.verbs.planning import all_studies, find_study, outdir, plan_all

RENDERER = "methods.report.command"
SHOWN = ("study", "title", "paper", "notes", "tables", "figures", "claims", "settings", "variants")
"""Parts of a study that its tables show; the rest reaches them through the runs."""


def table_key(plan: Plan) -> str:
    """Changes when the study's tables have to be rendered again."""
    study = plan.study.model_dump(mode="json", include=set(SHOWN))
    return digest(
        {
            "runs": sorted(plan.runs()),
            "study": study,
            "left_out": plan.left_out,
            "code": code_of(RENDERER),
        }
    )


def table_stamp(plan: Plan, results: Path) -> Path:
    """The stamp that says the study's tables are published and current."""
    return results / "runs" / "table" / f"{plan.study.study}-{plan.tier}-{table_key(plan)}.json"


def report_stamp(plans: list[Plan], tier: str, results: Path) -> Path:
    """The stamp of claims.md and the report page."""
    keys = {plan.study.study: table_key(plan) for plan in plans}
    return (
        results
        / "runs"
        / "report"
        / f"{tier}-{digest({'tables': keys, 'code': code_of(RENDERER)})}.json"
    )


def drop_if_unpublished(stamp: Path) -> Path:
    """Delete a stamp whose published files are gone or were edited, so that they are rendered again."""
    if stamp.is_file():
        files = json.loads(stamp.read_text(encoding="utf-8"))["files"]
        if any(
            not Path(name).is_file() or sha256(Path(name)) != known for name, known in files.items()
        ):
            stamp.unlink()
    return stamp


def file_of_table(table: Path) -> Path:
    """The study file that a published table was made from, as far as it says."""
    try:
        return Path(json.loads(table.read_text(encoding="utf-8"))["file"])
    except (ValueError, KeyError, TypeError):
        return Path("a damaged table")


def publish_table(study: str, tier: str, results: Path, work: Path) -> list[Path]:
    """Write the tables and figures of one study, and its stamp."""
    from methods.report.command import write_tables

    (plan,) = plan_all([find_study(study)], tier, work)
    paths = write_tables(plan, results, outdir(results, tier))
    _write_stamp(table_stamp(plan, results), paths)
    return paths


def publish_report(studies: list[str], tier: str, results: Path, work: Path) -> list[Path]:
    """Write claims.md and the report page of one tier, and their stamp."""
    from methods.report.command import write_report

    plans = plan_all([find_study(study) for study in studies] or all_studies(), tier, work)
    out = outdir(results, tier)
    tables = [out / "tables" / f"{plan.study.study}.json" for plan in plans]
    missing = [str(table) for table in tables if not table.is_file()]
    if missing:
        raise RetrofitError(
            f"no table yet: {', '.join(missing)}; run: snakemake --config tier={tier}"
        )
    paths = write_report(tables, out)
    _write_stamp(report_stamp(plans, tier, results), paths)
    return paths


def _write_stamp(stamp: Path, paths: list[Path]) -> None:
    stamp.parent.mkdir(parents=True, exist_ok=True)
    prefix = stamp.name.rpartition("-")[0]
    for older in stamp.parent.glob(f"{prefix}-*.json"):
        older.unlink()
    aside = stamp.with_name(f".{stamp.name}.{os.getpid()}")
    files = {path.as_posix(): sha256(path) for path in sorted(paths)}
    aside.write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, stamp)

"""From the tables of studies to claims.md and the report page."""

from __future__ import annotations

from pathlib import Path

from methods.report.command import write_report
from methods.study.errors import RetrofitError
from methods.verbs.planning import all_studies, find_study, outdir


def publish(studies: list[str], tier: str, results: Path) -> list[Path]:
    """Write the tier's front page; where committed `full` tables are, `claims.md` is rendered from them too."""
    paths = [find_study(study) for study in studies] if studies else all_studies()
    out = outdir(results, tier)
    tables = [out / "tables" / f"{path.stem}.json" for path in paths]
    missing = [str(table) for table in tables if not table.is_file()]
    if missing:
        raise RetrofitError(
            f"no table yet: {', '.join(missing)}; run: snakemake --config tier={tier}"
        )
    return write_report(tables, out)

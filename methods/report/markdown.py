"""A study's document as Markdown and CSV, and the front page of claims."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from methods.report.claims import VERDICTS
from methods.report.document import environments

BADGES = dict(zip(VERDICTS, ("✅", "🟡", "❔", "❌", "⚪"), strict=True))
DETERMINISTIC, OVER_UNITS, FROM_MEMORY, ONE_SEED = "†", "‡", "¶", "§"
UNITS = " (windows, replicates, splits)"
MOST_COMPARISONS = 6
"""Comparisons of one claim that the front page prints; the study's own page has all."""


def study_page(document: dict[str, Any]) -> str:
    """The study's tables with captions, claims, figures, notes and how the numbers were made."""
    lines = [f"# {_plain(document['title'])}", "", *_about(document)]
    lines += _section("Claims", _claims_table(document))
    for table in document["tables"].values():
        lines += _section(_plain(table["title"]), _table(table))
    if document["tables_left_out"]:
        names = "; ".join(map(_plain, document["tables_left_out"]))
        lines += [f"Tables that tier {document['tier']} leaves out: {names}.", ""]
    figures = []
    for figure in document["figures"].values():
        figures += [f"![{_plain(figure['title'])}](../{figure['file']})", ""]
        figures += [_plain(figure["caption"]), ""] if figure["caption"] else []
        for fit in figure.get("fits", []):
            figures.append(f"- {_plain(fit['sentence'])}")
        figures += [""] if figure.get("fits") else []
    lines += _section("Figures", figures)
    for part, heading in (
        ("fidelity", "Fidelity"),
        ("defects", "Defects of the published code that are avoided"),
        ("caveats", "Caveats"),
    ):
        lines += _section(heading, [f"- {_line(note)}" for note in document["notes"][part]])
    left = [f"- {name}: {_line(reason)}" for name, reason in document["left_out"].items()]
    lines += _section("Left out here", left)
    lines += _section("How the numbers were made", list(_making(document)))
    return "\n".join(lines).rstrip() + "\n"


def claims_page(documents: list[dict[str, Any]]) -> str:
    """The front page: every paper, every claim, the paper's figure, ours, the verdict."""
    verdicts = [claim["verdict"] for doc in documents for claim in doc["claims"].values()]
    counts = [f"{BADGES[v]} {verdicts.count(v)} {v}" for v in VERDICTS if v in verdicts]
    tiers = sorted({doc["tier"] for doc in documents})
    lines = [
        "# Claims",
        "",
        f"{len(documents)} {'study' if len(documents) == 1 else 'studies'}, "
        f"{len(verdicts)} claims, tier {', '.join(tiers)}: {' · '.join(counts) or 'none'}.",
        "",
        "A claim is *reproduced* when every comparison holds with its whole 95 % interval, paired over seeds or test "
        "units and corrected for the number of comparisons (Holm). Without an interval it is *partly* at best. It is "
        "*undecided* when the intervals contain what is claimed and its opposite.",
        "",
    ]
    for doc in documents:
        lines += [f"## {_plain(doc['title'])}", ""]
        if doc["paper"]:
            lines += [
                f"{_citation(doc['paper'])} · [tables and notes](tables/{doc['study']}.md)",
                "",
            ]
        else:
            lines += [f"[Tables and notes](tables/{doc['study']}.md)", ""]
        lines += _claims_table(doc) or ["This study states no claim."]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def table_csv(document: dict[str, Any]) -> str:
    """All tables of a study in one tidy file: a line for each cell, numbers in the metric's own unit."""
    out = io.StringIO()
    fields = (
        *("table", "setting", "variant", "column", "kind", "metric", "relative_to", "unit"),
        *("value", "low", "high", "n", "over", "deterministic", "source", "from_memory"),
    )
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    for name, table in document["tables"].items():
        for row in table["rows"]:
            for column, cell in zip(table["columns"], row["cells"], strict=True):
                if "value" not in cell:
                    continue
                paper = column["kind"] == "paper"
                value = cell["text"] if paper and cell["value"] is None else cell["value"]
                writer.writerow(
                    {
                        "table": name,
                        "setting": cell.get("setting", row["setting"]) or "",
                        "variant": row["variant"],
                        "column": column["paper"] if paper else column["label"],
                        "kind": column["kind"],
                        "metric": column.get("metric", ""),
                        "relative_to": column.get("relative_to") or "",
                        "unit": column.get("unit", ""),
                        "value": value,
                        "low": _blank(cell.get("low")),
                        "high": _blank(cell.get("high")),
                        "n": _blank(cell.get("n")),
                        "over": cell.get("over", ""),
                        "deterministic": str(cell.get("deterministic", "")).lower(),
                        "source": column.get("source", ""),
                        "from_memory": str(column.get("from_memory", "")).lower(),
                    }
                )
    return out.getvalue()


def _about(document: dict[str, Any]) -> Iterator[str]:
    if document["paper"]:
        yield from (_citation(document["paper"]), "")
    if document["notes"]["summary"]:
        yield from (_plain(document["notes"]["summary"]), "")


def _citation(paper: dict[str, Any]) -> str:
    parts = [f"Paper: *{_plain(paper['title'])}*"]
    if paper["venue"]:
        parts.append(_plain(paper["venue"]))
    if paper["arxiv"]:
        parts.append(f"[arXiv:{_plain(paper['arxiv'])}](https://arxiv.org/abs/{paper['arxiv']})")
    if paper["code"]:
        parts.append(f"code read: {_plain(paper['code'])}")
    return ", ".join(parts)


def _claims_table(document: dict[str, Any]) -> list[str]:
    if not document["claims"]:
        return []
    lines = ["| claim | the paper | ours | verdict |", "|---|---|---|---|"]
    for claim in document["claims"].values():
        paper = _cell(claim["paper"] or "–")
        if claim["from_memory"]:
            paper += " (from memory)"
        lines.append(
            f"| {_cell(claim['text'])} | {paper}<br>*{_cell(claim['source'])}* | {_ours(claim, document)} "
            f"| {BADGES[claim['verdict']]} **{claim['verdict']}**: {_cell(claim['summary'])} |"
        )
    return lines


def _ours(claim: dict[str, Any], document: dict[str, Any]) -> str:
    several = len(document["settings"]) > 1
    metrics = {one["metric"] for one in claim["comparisons"]}
    shown = []
    for one in claim["comparisons"][:MOST_COMPARISONS]:
        label = document["settings"][one["setting"]]["label"]
        where = [label] if several else []
        where += [one["metric"]] if len(metrics) > 1 else []
        prefix = f"{', '.join(where)}: " if where else ""
        shown.append(_cell(prefix + one["sentence"]))
    more = len(claim["comparisons"]) - len(shown)
    if more:
        shown.append(f"and {more} more")
    if len(metrics) == 1:
        shown.insert(0, f"`{_cell(next(iter(metrics)))}`")
    return "<br>".join(shown) or "–"


def _table(table: dict[str, Any]) -> list[str]:
    kept = [i for i, column in enumerate(table["columns"]) if not column.get("empty")]
    columns = [table["columns"][i] for i in kept]
    head = (["setting"] if table["by_setting"] else []) + ["variant"]
    head += [_heading(column) for column in columns] + ["n"]
    align = ["---"] * (2 if table["by_setting"] else 1) + ["--:"] * (len(columns) + 1)
    lines = [_plain(table["caption"]), ""] if table["caption"] else []
    lines += [_row(head), _row(align)]
    notes: dict[str, str] = {}
    marks: set[str] = set()
    for row in table["rows"]:
        name = _cell(row["label"])
        if row["control"]:
            name = f"*{name}*"
        if row["note"]:
            notes.setdefault(row["note"], f"<sup>{len(notes) + 1}</sup>")
            name += notes[row["note"]]
        cells = [_marked(row["cells"][i], row, table["over"], marks) for i in kept]
        count = str(row["n"])
        if row["deterministic"]:
            count += f" {DETERMINISTIC}"
            marks.add(DETERMINISTIC)
        setting = [_cell(row["setting_label"])] if table["by_setting"] else []
        lines.append(_row([*setting, name, *cells, count]))
    lines += ["", *_legend(columns, marks, table)]
    lines += [f"{mark} {_line(note)}  " for note, mark in notes.items()]
    return lines


def _legend(columns: list[dict], marks: set[str], table: dict[str, Any]) -> Iterator[str]:
    word = {"seeds": "seed", "units": "unit"}[table["over"]]
    texts = [f"Mean ± half of the 95 % interval over n {word}s{UNITS if word == 'unit' else ''}."]
    if any(column.get("relative_to") for column in columns):
        texts.append(f"Differences are paired {word} by {word}.")
    if DETERMINISTIC in marks:
        texts.append(f"{DETERMINISTIC} no seed enters: one run stands for all.")
    if OVER_UNITS in marks:
        texts.append(f"{OVER_UNITS} interval over test units{UNITS}, not seeds.")
    if ONE_SEED in marks:
        texts.append(f"{ONE_SEED} fewer {word}s than the row.")
    if any(row["control"] for row in table["rows"]):
        texts.append("Controls in italics.")
    if table["missing"]:
        texts.append(f"Not measured here: {', '.join(map(_plain, table['missing']))}.")
    sources = [
        f"{_plain(c['paper'])}: {_plain(c['source'])}" for c in columns if c["kind"] == "paper"
    ]
    if sources:
        texts.append(f"The paper's figures: {'; '.join(sources)}.")
    if any(column.get("from_memory") for column in columns):
        texts.append(f"{FROM_MEMORY} from memory, not checked against the paper's text.")
    yield from (" ".join(texts), "")


def _heading(column: dict[str, Any]) -> str:
    if column["kind"] == "paper":
        return f"{_cell(column['paper'])}{' ' + FROM_MEMORY if column['from_memory'] else ''}"
    arrow = {True: " ↑", False: " ↓", None: ""}[column["higher_is_better"]]
    return f"{_cell(column['label'])}{arrow}"


def _marked(cell: dict[str, Any], row: dict[str, Any], over: str, marks: set[str]) -> str:
    mark = ""
    if cell.get("over") == "units" != over:
        mark = OVER_UNITS
    elif cell.get("deterministic") and not row["deterministic"]:
        mark = DETERMINISTIC
    elif "n" in cell and not cell["deterministic"] and cell["n"] < row["n"]:
        mark = ONE_SEED
    if mark:
        marks.add(mark)
    return f"{_cell(cell['text'])} {mark}".rstrip()


def _making(document: dict[str, Any]) -> Iterator[str]:
    runs = document["runs"].values()
    kinds = {kind: sum(run["kind"] == kind for run in runs) for kind in ("method", "evaluate")}
    yield f"- {kinds['method']} method runs and {kinds['evaluate']} evaluations, tier {document['tier']}"
    yield from (f"- {line}" for line in environments(document))
    study = called(document)
    again = f"snakemake --config study={study} tier={document['tier']}"
    yield f"- settings: `{document['file']}`; again: `{again}`"
    row = "SETTING/VARIANT" if len(document["settings"]) > 1 else "VARIANT"
    tier = "" if document["tier"] == "full" else f" --tier {document['tier']}"
    yield f"- from a cell to its runs: `python -m methods explain {study} {row} METRIC{tier}`"


def called(document: dict[str, Any]) -> str:
    """How the command line calls the study: by name where it stands with the project's own, else by its file."""
    own = document["file"] == f"configs/studies/{document['study']}.yaml"
    return document["study"] if own else document["file"]


def _section(heading: str, lines: list[str]) -> list[str]:
    return [f"## {heading}", "", *lines, ""] if lines else []


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _blank(value: Any) -> Any:
    return "" if value is None else value


def _line(text: str) -> str:
    return _plain(" ".join(text.split()))


def _plain(text: str) -> str:
    """Text of a study file in Markdown: what would open an HTML tag is written out."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _cell(text: str) -> str:
    """The same inside a table: no bars, no line breaks."""
    return _line(text).replace("|", "\\|")

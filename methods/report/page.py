"""The report page: one HTML file with everything in it, readable offline, on a phone, in the dark, and by ear."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from methods.report.claims import VERDICTS
from methods.report.document import environments
from methods.report.markdown import DETERMINISTIC, FROM_MEMORY, ONE_SEED, OVER_UNITS, called
from methods.report.style import CONTROL, GRID, INK, MUTED

HERE = Path(__file__).parent
TEMPLATE, STYLE, SCRIPT = "page.html.jinja", "page.css", "page.js"
SYMBOLS = dict(zip(VERDICTS, ("✓", "◐", "?", "✕", "○"), strict=True))
CLASSES = dict(zip(VERDICTS, ("yes", "partly", "undecided", "no", "untested"), strict=True))
KEPT_OF_RUNS = (
    *("kind", "key", "implementation", "spec", "seed", "code", "upstream", "threads", "device"),
    *(
        "versions",
        "git",
        "instruction_set",
        "processor",
        "wall_seconds",
        "cpu_seconds",
        "peak_memory_bytes",
    ),
)


def render(documents: list[dict[str, Any]], pictures: dict[str, str]) -> str:
    """The page of one tier. `pictures`: figure file as the documents name it → its SVG."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        symbols=SYMBOLS,
        classes=CLASSES,
        verdicts=VERDICTS,
        environments=environments,
        cell_address=cell_address,
        called=called,
        marks={"deterministic": DETERMINISTIC, "units": OVER_UNITS, "memory": FROM_MEMORY}
        | {"fewer": ONE_SEED},
    )
    counts = {
        verdict: sum(c["verdict"] == verdict for d in documents for c in d["claims"].values())
        for verdict in VERDICTS
    }
    return environment.get_template(TEMPLATE).render(
        documents=documents,
        tier=", ".join(sorted({d["tier"] for d in documents})),
        counts=counts,
        total=sum(counts.values()),
        figures={
            figure["file"]: Markup(inline_svg(pictures[figure["file"]], figure["alt"], index))
            for index, figure in enumerate(f for d in documents for f in d["figures"].values())
        },
        style=Markup((HERE / STYLE).read_text(encoding="utf-8")),
        script=Markup((HERE / SCRIPT).read_text(encoding="utf-8")),
        data=Markup(script_json({d["study"]: provenance(d) for d in documents})),
    )


def cell_address(study: str, setting: str, variant: str, metric: str) -> str:
    """The part of a link after `#` that opens the provenance of a cell."""
    from urllib.parse import quote

    return "cell/" + "/".join(quote(part, safe="") for part in (study, setting, variant, metric))


def provenance(document: dict[str, Any]) -> dict[str, Any]:
    """What the panel behind a number shows: cells with their runs, and each run once."""
    return {
        "title": document["title"],
        "called": called(document),
        "flag": "" if document["tier"] == "full" else f" --tier {document['tier']}",
        "settings": {name: entry["label"] for name, entry in document["settings"].items()},
        "variants": {name: entry["label"] for name, entry in document["variants"].items()},
        "cells": [
            {
                "setting": cell["setting"],
                "variant": cell["variant"],
                "chains": {str(p["seed"]): p["chain"] for p in cell["planned"]},
                "metrics": {
                    name: {k: v for k, v in entry.items() if k not in ("stderr", "comparable")}
                    for name, entry in cell["metrics"].items()
                },
            }
            for cell in document["cells"]
        ],
        "runs": {
            name: {key: run[key] for key in KEPT_OF_RUNS if key in run}
            for name, run in document["runs"].items()
        },
        "code": {
            code: {"module": entry["module"], "files": list(entry["files"])}
            for code, entry in document["code"].items()
        },
    }


def script_json(value: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def inline_svg(svg: str, alt: str, index: int) -> str:
    """An SVG file as a part of the page: identifiers of its own, colours that follow the theme, described in words."""
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="f{index}-', body)
    body = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>f{index}-", body)
    for color, name in ((INK, "ink"), (MUTED, "muted"), (GRID, "grid"), (CONTROL, "control")):
        body = re.sub(rf"(?i)(fill|stroke): ?{color}", rf"\g<1>: var(--{name})", body)
    head, _, rest = body.partition(">")
    width = float(re.search(r'width="([\d.]+)pt"', head).group(1))
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    label = escape(alt)
    style = f"max-width:{width * 4 / 3:.0f}px"
    return f'{head} role="img" aria-label="{label}" style="{style}">{rest}'

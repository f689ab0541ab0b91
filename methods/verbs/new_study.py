"""A commented study to start from."""

from __future__ import annotations

import re
from pathlib import Path

from methods.study.errors import RetrofitError
from methods.study.specification import NAME

TEMPLATE = """\
# yaml-language-server: $schema={schema}
# Run it:            snakemake --config study={path}
# See what would run: python -m methods plan {path}
study: {name}
title: {title}, cheaper

# The model: a name from configs/models/, {{huggingface: org/name, revision: <commit>}} or {{path: some/directory}}.
base: smollm2-135m

# <data set>.<split> from configs/datasets/; a mapping says how much of it.
data:
  calibration: {{set: wikipedia.train, tokens: 8192, length: 512}}
  eval: [wikipedia.test]

# A variant is a chain of steps on the base; [] is the base itself, your control.
# `for` makes one variant of each value; variants that begin alike share their first runs.
variants:
  dense: []
  rtn-w{{bits}}:
    for: {{bits: [4, 3]}}
    steps: [{{method: rtn, bits: "{{bits}}", group_size: 64}}]
  awq-w{{bits}}:
    for: {{bits: [4, 3]}}
    steps: [{{method: awq, bits: "{{bits}}", group_size: 64}}]

measure:
  - {{measure: perplexity, window: 512, windows: 16}}
  - size

# How many seeds: an int, or {{pattern: int}}.
seeds: {{"*": 2}}

# `--config tier=quick` lays these over the study.
tiers:
  quick:
    seeds: 1
    only: [dense, "*-w3"]
    measure: {{perplexity: {{windows: 4}}}}

tables:
  main:
    title: What each method costs and saves
    columns:
      - {{metric: perplexity/wikipedia.test, label: perplexity, digits: 2}}
      - {{metric: size/deployed, label: MB as deployed, scale: 0.000001, digits: 1}}

figures:
  pareto:
    title: Quality against size
    kind: scatter
    x: size/deployed
    x_label: bytes as deployed
    y: perplexity/wikipedia.test
    y_log: true

claims:
  awq-beats-rtn:
    text: AWQ loses less than round-to-nearest
    source: your own question
    check: {{metric: perplexity/wikipedia.test, better: [awq-w3], than: [rtn-w3], over: units}}
"""


def write(name: str, to: Path | None = None) -> Path:
    """Write the template; an existing file is never overwritten."""
    if not NAME.fullmatch(name):
        raise RetrofitError(
            f"'{name}' is no name for a study: lower-case letters, digits and . + _ - only"
        )
    path = to or Path("configs/studies") / f"{name}.yaml"
    if path.exists():
        raise RetrofitError(f"{path} exists; choose another name or --to FILE")
    depth = "../" * len(path.parent.parts) if not path.is_absolute() else ""
    title = re.sub(r"[-_.+]+", " ", name).strip().capitalize()
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = f"{depth}workflows/schemas/study.schema.json"
    path.write_text(
        TEMPLATE.format(schema=schema, path=path, name=name, title=title), encoding="utf-8"
    )
    return path

"""A commented study to start from."""

from __future__ import annotations

import json
import re
from pathlib import Path

from methods.quantize.widths import widths_of_config
from methods.study import strict_yaml
from methods.study.errors import RetrofitError, nearest
from methods.study.specification import NAME

TEMPLATE = """\
# yaml-language-server: $schema={schema}
# Run it:            snakemake --config study={path}
# See what would run: python -m methods plan {path}
study: {name}
title: {title}, cheaper

# The model: a name from configs/models/, {{huggingface: org/name, revision: <commit>}} or {{path: some/directory}}.
base: {base}

# <data set>.<split> from configs/datasets/; a mapping says how much of it.
data:
  calibration: {{set: {text}.train, tokens: {tokens}, length: {length}}}
  eval: [{text}.test]

# A variant is a chain of steps on the base; [] is the base itself, your control.
# `for` makes one variant of each value; variants that begin alike share their first runs.
variants:
  dense: []
  rtn-w{{bits}}:
    for: {{bits: [4, 3]}}
    steps: [{{method: rtn, bits: "{{bits}}", group_size: {group}}}]
  awq-w{{bits}}:
    for: {{bits: [4, 3]}}
    steps: [{{method: awq, bits: "{{bits}}", group_size: {group}}}]

measure:
  - {{measure: perplexity, window: {length}, windows: {windows}}}
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
      - {{metric: perplexity/{text}.test, label: perplexity, digits: 2}}
      - {{metric: size/deployed, label: MB as deployed, scale: 0.000001, digits: 1}}

figures:
  pareto:
    title: Quality against size
    kind: scatter
    x: size/deployed
    x_label: bytes as deployed
    y: perplexity/{text}.test
    y_log: true

claims:
  awq-beats-rtn:
    text: AWQ loses less than round-to-nearest
    source: your own question
    check: {{metric: perplexity/{text}.test, better: [awq-w3], than: [rtn-w3], over: units}}
"""


DATASET = """\
# Your own text. It is read from where it lies; nothing is copied into the project but data/{name}/.
title: {title}
licence: your own
description: Paragraphs of {file}; the first 70 % calibrate, the rest measures.
optional: true
files: {{text.txt: {{}}}}
sources:
  - kind: path
    files: {{text.txt: {path}}}
builder: {{name: plain-text}}
"""
LENGTH = 512
CHARACTERS_A_TOKEN = 3
"""Fewer than English has, so that a text is rather thought too short than too long."""


def write(
    name: str,
    to: Path | None = None,
    model: str | None = None,
    text: Path | None = None,
    configs: Path = Path("configs"),
) -> list[Path]:
    """Write the template, filled in for a model and a text where they are given; the files written.

    model: a name of `configs/models/`, a directory, or `organisation/name` of the hub. text: a UTF-8
    file, declared as the data set `NAME-text`. Existing files are never overwritten.
    Raises RetrofitError: no such directory or file, a directory that cannot be loaded, a text too
    short for one window.
    """
    if not NAME.fullmatch(name):
        raise RetrofitError(
            f"'{name}' is no name for a study: lower-case letters, digits and . + _ - only"
        )
    path = to or configs / "studies" / f"{name}.yaml"
    dataset = configs / "datasets" / f"{name}-text.yaml"
    for file in [path, *([dataset] if text else [])]:
        if file.exists():
            raise RetrofitError(f"{file} exists; choose another name or --to FILE")
    base, config = _base(model, configs)
    title = re.sub(r"[-_.+]+", " ", name).strip().capitalize()
    length = min(LENGTH, config.get("max_position_embeddings") or LENGTH)
    values = {"text": "wikipedia", "tokens": 16 * length, "windows": 16}
    if text is not None:
        values |= _amounts(text, length)
        values["text"] = f"{name}-text"
        dataset.parent.mkdir(parents=True, exist_ok=True)
        dataset.write_text(
            DATASET.format(
                name=f"{name}-text",
                title=title,
                file=text.name,
                path=json.dumps(str(text.resolve())),
            ),
            encoding="utf-8",
        )
    depth = "../" * len(path.parent.parts) if not path.is_absolute() else ""
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = f"{depth}workflows/schemas/study.schema.json"
    path.write_text(
        TEMPLATE.format(
            schema=schema,
            path=path,
            name=name,
            title=title,
            base=base,
            group=_group(config),
            length=length,
            **values,
        ),
        encoding="utf-8",
    )
    return [path, *([dataset] if text else [])]


def _base(model: str | None, configs: Path) -> tuple[str, dict]:
    """How a study names the model, and what is known of its `config.json`."""
    name = model or "smollm2-135m"
    declaration = configs / "models" / f"{name}.yaml"
    if declaration.is_file():
        declared = strict_yaml.load(declaration).value
        if declared.get("layout") == "network":
            raise RetrofitError(f"{name} is no language model; this template measures text")
        return name, declared.get("config") or {}
    if model is None:
        return name, {}
    directory = Path(model)
    if directory.is_dir():
        return _path(directory), _checked(directory)
    if model.count("/") == 1 and not model.startswith(("/", ".")):
        return f"{{huggingface: {model}}}", {}
    raise RetrofitError(
        f"--model {model}: no such directory, no name of {configs}/models/, and no "
        "organisation/name of the hub"
    )


def _path(model: Path) -> str:
    return f"{{path: {json.dumps(str(model.resolve()))}}}"


def _checked(directory: Path) -> dict:
    """The `config.json` of a model directory that a study can start from.

    What a run would refuse later is refused here: nothing to load, pickled weights, no tokenizer, an
    architecture that transformers does not know or that is no causal language model.
    """
    # Imported here because it brings torch, which the other templates do without.
    from methods.models.language import EXTRA, check_directory

    config = check_directory(directory)
    if not (directory / "tokenizer_config.json").is_file():
        raise RetrofitError(
            f"{directory} has no tokenizer (tokenizer_config.json), so no text can be read; save it "
            f"there: AutoTokenizer.from_pretrained(NAME).save_pretrained({str(directory)!r})"
        )
    if not (directory / EXTRA).is_file():  # an artifact of ours says itself what to import
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        kind = config.get("model_type")
        if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            guess = nearest(str(kind), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
            raise RetrofitError(
                f"{directory}: transformers has no causal language model of type {kind!r}"
                + (f"; did you mean {guess!r}?" if guess else "")
            )
    return config


def _group(config: dict) -> int:
    """The largest usual group size that divides every layer; 64 where nothing is known."""
    widths = widths_of_config(config).values()
    return (
        next((g for g in (128, 64, 32, 16) if all(w % g == 0 for w in widths)), -1)
        if widths
        else 64
    )


def _amounts(text: Path, length: int) -> dict[str, int]:
    """Calibration tokens and test windows that a text surely has."""
    if not text.is_file():
        raise RetrofitError(f"--text {text}: there is no such file")
    tokens = text.stat().st_size // (CHARACTERS_A_TOKEN + 2)
    calibration = min(16, int(0.7 * tokens) // length)
    windows = min(16, int(0.25 * tokens) // length)
    if not calibration or not windows:
        raise RetrofitError(
            f"{text} has about {tokens} tokens; a study needs about {5 * length}, some windows of "
            f"{length} to calibrate and to measure"
        )
    return {"tokens": calibration * length, "windows": windows}

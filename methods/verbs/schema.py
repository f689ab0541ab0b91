"""The JSON schema of study files: editors complete and check against it, a test keeps it in step."""

from __future__ import annotations

import json
from pathlib import Path

from methods.study.errors import RetrofitError
from methods.study.loading import PLACEHOLDER
from methods.study.registry import entries
from methods.study.specification import study_type

PATH = Path("workflows/schemas/study.schema.json")


def text() -> str:
    """The schema as JSON, ending with a line break."""
    schema = as_written(study_type().model_json_schema(mode="validation"))
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Retrofit study"}
    return json.dumps({**schema, **head}, indent=1, sort_keys=True) + "\n"


def as_written(schema: dict) -> dict:
    """The schema of files: before `for` is expanded, and before a tier or setting is laid over a step.

    A variant may carry `for`, and any value in a step may be one of its placeholders, `"{bits}"`; so may names, which
    JSON Schema cannot check anyway.
    """
    placeholder = {"type": "string", "pattern": PLACEHOLDER.pattern}
    definitions = schema["$defs"]
    definitions["Variant"]["properties"]["for"] = {
        "type": "object",
        "description": "Lists of values; one variant for each combination, `{name}` stands for the value.",
        "additionalProperties": {"type": "array", "minItems": 1},
    }
    steps = [e.params.__name__ for kind in ("method", "measure") for e in entries(kind).values()]
    for section in _with_sections(steps, definitions):
        properties = definitions[section].get("properties", {})
        for name, value in properties.items():
            if name not in ("method", "measure"):
                described = {k: value.pop(k) for k in ("description", "default") if k in value}
                properties[name] = {"anyOf": [value, placeholder], **described}
    return schema


def _with_sections(names: list[str], definitions: dict) -> list[str]:
    """The definitions of steps and, once each, of the sections inside them."""
    found: list[str] = []

    def visit(value: object) -> None:
        if isinstance(value, dict):
            for key, child in value.items():
                if key == "$ref":
                    add(child.rpartition("/")[2])
                else:
                    visit(child)
        elif isinstance(value, list):
            for child in value:
                visit(child)

    def add(name: str) -> None:
        if name not in found:
            found.append(name)
            visit(definitions[name])

    for name in names:
        add(name)
    return found


def write() -> int:
    """Write the schema where the workflow keeps it."""
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(text(), encoding="utf-8")
    print(PATH)
    return 0


def check() -> int:
    """0 if the file is in step with the specifications in code; RetrofitError otherwise."""
    if not PATH.is_file() or PATH.read_text(encoding="utf-8") != text():
        raise RetrofitError(
            f"{PATH} is out of step with the code; run: python -m methods schema --write"
        )
    print(f"{PATH} is in step")
    return 0

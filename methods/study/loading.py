"""From a study file and a tier to a checked specification, with errors that name file, line and key."""

from __future__ import annotations

import itertools
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from methods.study import strict_yaml
from methods.study.errors import RetrofitError, SpecError, choices
from methods.study.names import check_names, matches
from methods.study.registry import entries
from methods.study.specification import TIERS, StudyBase, TierSpec, study_type

PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


def load_study(path: Path | str, tier: str = "full") -> StudyBase:
    """The study of one file with a tier applied.  Raises SpecError, one line for each problem."""
    if tier not in TIERS:
        raise RetrofitError(f"tier '{tier}' does not exist; {choices(tier, TIERS)}")
    document = strict_yaml.load(path)
    raw = document.value
    _expand_grids(raw, document)
    tiers = raw.get("tiers") or {}
    _check(TierSpec, tiers.get(tier) or {}, document, ("tiers", tier))
    _apply_overrides(raw, tiers.get(tier) or {}, document, ("tiers", tier))
    study = _check(study_type(), raw, document)
    check_names(study, document)
    return _select(study, study.tiers.get(tier, TierSpec()), document)


def merged_steps(steps: list, overrides: dict[str, dict]) -> list[dict]:
    """Steps (mappings) with `{method: {parameter: value}}` laid over them."""
    return [{**step, **overrides.get(step.get("method"), {})} for step in steps]


def _expand_grids(raw: dict, document: strict_yaml.Document) -> None:
    """`rtn-w{bits}: {for: {bits: [2, 3]}, steps: …}` becomes `rtn-w2`, `rtn-w3`."""
    variants = raw.get("variants")
    if not isinstance(variants, dict):
        return
    expanded: dict[str, Any] = {}
    for name, variant in variants.items():
        axes = variant.get("for") if isinstance(variant, dict) else None
        rows: list[tuple[str, Any]] = [(name, variant)]
        if axes is not None:
            rows = _grid(name, variant, axes, document)
        for row, value in rows:
            if row in expanded:
                raise SpecError(
                    [_at(document, ("variants", name), f"two variants are named '{row}'")]
                )
            expanded[row] = value
    raw["variants"] = expanded


def _grid(
    name: str, variant: dict, axes: Any, document: strict_yaml.Document
) -> list[tuple[str, Any]]:
    where = ("variants", name, "for")
    if not isinstance(axes, dict) or not all(isinstance(v, list) and v for v in axes.values()):
        raise SpecError([_at(document, where, "`for` is a mapping of names to lists of values")])
    missing = [axis for axis in axes if f"{{{axis}}}" not in name]
    if missing:
        raise SpecError([_at(document, where, f"the variant's name must contain {{{missing[0]}}}")])
    body = {key: value for key, value in variant.items() if key != "for"}
    rows = []
    for values in itertools.product(*axes.values()):
        cell = dict(zip(axes, values, strict=True))
        rows.append((_filled(name, cell, document, where), _filled(body, cell, document, where)))
    return rows


def _filled(node: Any, cell: dict[str, Any], document: strict_yaml.Document, where: tuple) -> Any:
    """Replace `{axis}`; a text that is nothing but `{axis}` takes the value with its type."""
    if isinstance(node, dict):
        return {key: _filled(child, cell, document, where) for key, child in node.items()}
    if isinstance(node, list):
        return [_filled(child, cell, document, where) for child in node]
    if not isinstance(node, str):
        return node
    whole = PLACEHOLDER.fullmatch(node)
    unknown = [axis for axis in PLACEHOLDER.findall(node) if axis not in cell]
    if unknown:
        raise SpecError(
            [
                _at(
                    document,
                    where,
                    f"'{{{unknown[0]}}}' is no axis of `for`; {choices(unknown[0], cell)}",
                )
            ]
        )
    return (
        cell[whole.group(1)]
        if whole
        else PLACEHOLDER.sub(lambda found: str(cell[found.group(1)]), node)
    )


def _apply_overrides(raw: dict, tier: dict, document: strict_yaml.Document, where: tuple) -> None:
    """Lay a tier over the raw study.  Only names that exist may be overridden."""
    used_methods, used_measures = set(), set()
    for variant in (raw.get("variants") or {}).values():
        steps = (
            variant
            if isinstance(variant, list)
            else variant.get("steps", [])
            if isinstance(variant, dict)
            else []
        )
        used_methods.update(step.get("method") for step in steps if isinstance(step, dict))
    measures = [{"measure": m} if isinstance(m, str) else m for m in raw.get("measure") or []]
    used_measures.update(m.get("measure") for m in measures if isinstance(m, dict))
    for kind, used in (("methods", used_methods), ("measure", used_measures)):
        _check_overrides(tier.get(kind) or {}, kind, used, document, (*where, kind))
    for name, setting in (raw.get("settings") or {}).items():
        if isinstance(setting, dict):
            _check_overrides(
                setting.get("methods") or {},
                "methods",
                used_methods,
                document,
                ("settings", name, "methods"),
            )

    if tier.get("seeds") is not None:
        raw["seeds"] = tier["seeds"]
    if tier.get("base") is not None:
        raw["base"] = tier["base"]
    if tier.get("data"):
        raw["data"] = {**(raw.get("data") or {}), **tier["data"]}
    raw["measure"] = [
        {**m, **(tier.get("measure") or {}).get(m.get("measure"), {})} if isinstance(m, dict) else m
        for m in measures
    ]
    overrides = tier.get("methods") or {}
    for name, variant in (raw.get("variants") or {}).items():
        if isinstance(variant, list) and all(isinstance(step, dict) for step in variant):
            raw["variants"][name] = merged_steps(variant, overrides)
        elif isinstance(variant, dict) and isinstance(variant.get("steps"), list):
            raw["variants"][name] = {**variant, "steps": merged_steps(variant["steps"], overrides)}


def _check_overrides(
    section: dict, kind: str, used: set, document: strict_yaml.Document, where: tuple
) -> None:
    registered = entries("method" if kind == "methods" else "measure")
    for name, values in section.items():
        if name not in used:
            raise SpecError(
                [
                    _at(
                        document,
                        (*where, name),
                        f"no step of this study uses '{name}'; {choices(name, sorted(filter(None, used)))}",
                    )
                ]
            )
        if name not in registered:
            continue  # the step itself is refused with a better message
        allowed = registered[name].params.model_fields
        for key in values if isinstance(values, dict) else ():
            if key not in allowed:
                raise SpecError(
                    [
                        _at(
                            document,
                            (*where, name, key),
                            f"unknown key '{key}' of {name}; {choices(key, allowed)}",
                        )
                    ]
                )


def _select(study: StudyBase, tier: TierSpec, document: strict_yaml.Document) -> StudyBase:
    """Keep the variants and settings of the tier; a pattern that matches nothing is an error."""
    for field, names in (
        ("only", study.variants),
        ("settings", study.settings or {"default": None}),
    ):
        for pattern in getattr(tier, field):
            if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in names):
                where = ("tiers", "only") if field == "only" else ("tiers", "settings")
                raise SpecError(
                    [
                        _at(
                            document,
                            where,
                            f"pattern '{pattern}' matches none of {', '.join(names)}",
                        )
                    ]
                )
    return study.model_copy(
        update={
            "variants": {name: v for name, v in study.variants.items() if matches(name, tier.only)},
            "settings": {
                name: s for name, s in study.settings.items() if matches(name, tier.settings)
            },
        }
    )


def _check(model: type, raw: Any, document: strict_yaml.Document, prefix: tuple = ()) -> Any:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise SpecError(
            [_sentence(problem, document, prefix) for problem in error.errors(include_url=False)]
        ) from None


def _sentence(problem: dict, document: strict_yaml.Document, prefix: tuple) -> str:
    context = problem.get("ctx") or {}
    location = (*prefix, *problem["loc"])
    message = problem["msg"]
    match problem["type"]:
        case "unknown_key":
            location = (*location, context["key"])
        case "union_tag_invalid":
            tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
            kind = context["discriminator"].strip("'")
            message = f"there is no {kind} '{context['tag']}'; {choices(context['tag'], tags)}"
            location = (*location, kind)
        case "union_tag_not_found":
            message = f"a step must name its {context['discriminator']}"
        case "literal_error":
            expected = [word.strip(" '") for word in re.split(r",| or ", context["expected"])]
            if isinstance(problem["input"], str) and problem["input"] in expected:
                message = (
                    f"expected a number, found the text '{problem['input']}'; leave out the quotes"
                )
            else:
                message = (
                    f"{problem['input']!r} is not allowed; {choices(problem['input'], expected)}"
                )
        case "bool_type":
            message = f"expected true or false, found {problem['input']!r}"
            if str(problem["input"]).lower() in {"yes", "no", "on", "off"}:
                message += " (YAML reads yes, no, on and off as text)"
        case "value_error":
            message = message.removeprefix("Value error, ")
        case "missing":
            message = "this key is required"
        case _:
            message = f"{message[0].lower()}{message[1:]}, found {problem['input']!r}"
    return _at(document, location, message)


def _at(document: strict_yaml.Document, location: tuple, message: str) -> str:
    """`file:line: key: message`, leaving out parts of the location that are union tags, not keys."""
    line = document.line(location)
    keys = _real_parts(document.value, location)
    where = f"{document.path}:{line}" if line else str(document.path)
    return f"{where}: {'.'.join(map(str, keys))}: {message}" if keys else f"{where}: {message}"


def _real_parts(node: Any, location: tuple) -> list:
    """Parts of `location` that are keys of the file, and the last one always (it may be missing)."""
    kept = []
    for position, part in enumerate(location):
        inside = (isinstance(node, dict) and part in node) or (
            isinstance(node, list) and isinstance(part, int) and part < len(node)
        )
        if inside:
            kept.append(part)
            node = node[part]
        elif position == len(location) - 1 and isinstance(node, dict) and str(part)[:1] not in "[<":
            kept.append(part)
    return kept

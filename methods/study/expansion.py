"""From a checked study to its runs: variants × settings × seeds, prefixes of chains shared, every run keyed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from methods.study import strict_yaml
from methods.study.equivalence import code_of
from methods.study.errors import RetrofitError, SpecError, choices
from methods.study.keys import run_key
from methods.study.loading import load_study
from methods.study.names import matches
from methods.study.registry import StepParams, find
from methods.study.specification import DataRef, HubBase, NamedBase, PathBase, Setting, StudyBase

KINDS = ("data", "base", "method", "evaluate")
BASE_IMPLEMENTATION = "methods.models.imports:base"
ENCODER_IMPLEMENTATION = "methods.models.encoder:base"
DATA_IMPLEMENTATION = "methods.data.building:build_run"
LONGEST_SLUG = 60


@dataclass(frozen=True)
class Run:
    """One keyed piece of work.  `slug` is for people, `key` for the truth."""

    kind: str
    slug: str
    spec: dict[str, Any]
    implementation: str
    seed: int | None
    upstream: dict[str, Run]
    code: str
    threads: int = 1
    key: str = field(init=False)

    def __post_init__(self) -> None:
        upstream = [f"{role}={run.key}" for role, run in sorted(self.upstream.items())]
        spec = {"implementation": self.implementation, **self.spec}
        object.__setattr__(self, "key", run_key(self.kind, spec, self.seed, upstream, self.code))

    @property
    def name(self) -> str:
        """`<slug>-<key>`, the name of the run's directory."""
        return f"{self.slug[:LONGEST_SLUG]}-{self.key}"

    @property
    def directory(self) -> Path:
        """Where the artifact goes, relative to the results' root."""
        return Path("runs") / self.kind / self.name

    def describe(self) -> dict[str, Any]:
        """What the job reads: everything that the work depends on, as JSON."""
        return {
            "kind": self.kind,
            "slug": self.slug[:LONGEST_SLUG],
            "key": self.key,
            "implementation": self.implementation,
            "spec": self.spec,
            "seed": self.seed,
            "code": self.code,
            "threads": self.threads,
            "upstream": {
                role: f"{run.kind}/{run.name}" for role, run in sorted(self.upstream.items())
            },
        }


@dataclass(frozen=True)
class Cell:
    """A variant in a setting with one seed, and the runs that measure it."""

    setting: str
    variant: str
    seed: int
    chain: tuple[Run, ...]
    evaluations: tuple[Run, ...]

    @property
    def result(self) -> Run:
        """The run whose artifact the variant leaves."""
        return self.chain[-1]

    @property
    def measured(self) -> tuple[Run, ...]:
        """Runs whose metrics belong to this cell."""
        return (self.result, *self.evaluations)


@dataclass(frozen=True)
class Plan:
    """All that a study and a tier ask for."""

    path: Path
    tier: str
    study: StudyBase
    cells: tuple[Cell, ...]
    left_out: dict[str, str]
    """Optional data sets, and cells over nothing else, that cannot be had here, with the reason."""
    missing: dict[str, str] = field(default_factory=dict)
    """Data sets without which no run is left; the plan is then what would run if they were here."""

    def runs(self) -> dict[str, Run]:
        """Every run by name, upstream before downstream."""
        found: dict[str, Run] = {}

        def visit(run: Run) -> None:
            if run.name not in found:
                for upstream in run.upstream.values():
                    visit(upstream)
                found[run.name] = run

        for cell in self.cells:
            for run in (*cell.chain, *cell.evaluations):
                visit(run)
        return found


class NothingToRunError(SpecError):
    """No run of a study is left; `reasons`: each data set that cannot be had here → why."""

    def __init__(self, where: str, reasons: dict[str, str]):
        self.reasons = reasons
        super().__init__([f"{where} leaves no run: {'; '.join(reasons.values())}"])


def plan(
    path: Path | str,
    tier: str = "full",
    configs: Path = Path("configs"),
    without: dict[str, str] | None = None,
) -> Plan:
    """Expand a study file.  Raises SpecError or RetrofitError before anything runs.

    `without` says which optional data sets to leave out, and why; None asks this machine.
    """
    study = load_study(path, tier)
    expander = _Expander(study, Path(path), configs, without)
    cells = tuple(expander.cells())
    if not cells:
        reasons = expander.hindrances()
        if reasons:
            raise NothingToRunError(f"{path}: tier {tier}", reasons)
        raise SpecError([f"{path}: tier {tier} leaves no run"])
    return Plan(Path(path), tier, study, cells, expander.left_out)


def seeds_of(study: StudyBase, variant: str, setting: Setting) -> int:
    """How many seeds a variant gets; the last matching pattern wins."""
    if setting.seeds is not None:
        return setting.seeds
    if isinstance(study.seeds, int):
        return study.seeds
    found = [count for pattern, count in study.seeds.items() if fnmatchcase(variant, pattern)]
    return found[-1] if found else 1


class _LeftOutError(Exception):
    """A cell whose optional data cannot be had here."""


class _Expander:
    def __init__(self, study: StudyBase, path: Path, configs: Path, without: dict[str, str] | None):
        self.study, self.path, self.configs, self._without = study, path, configs, without
        self.left_out: dict[str, str] = {}
        self._hindrances: dict[str, str | None] = {}
        self._runs: dict[str, Run] = {}
        self._data_keys: dict[str, dict] = {}

    def hindrances(self) -> dict[str, str]:
        """Data sets that cannot be had here, with the reason."""
        return {name: why for name, why in self._hindrances.items() if why}

    def cells(self) -> Iterator[Cell]:
        for name, setting in (self.study.settings or {"default": Setting()}).items():
            for variant, chain in self.study.variants.items():
                if matches(variant, setting.only):
                    for seed in range(seeds_of(self.study, variant, setting)):
                        try:
                            yield self._cell(name, setting, variant, chain, seed)
                        except _LeftOutError as left_out:
                            self.left_out[f"{name}/{variant}"] = str(left_out)

    def _cell(self, name: str, setting: Setting, variant: str, chain: Any, seed: int) -> Cell:
        where = f"{self.path}: setting {name}, variant {variant}"
        data = {**self.study.data, **setting.data, **chain.data}
        base = setting.base or self.study.base
        runs = [self._base_run(base)] if base else []
        config = self._config_of(base, runs[0]) if runs else {}
        for params in chain.steps:
            overrides = setting.methods.get(params.method)
            if overrides:
                # Validated anew: overrides come as plain values and must pass every check of the model.
                params = type(params).model_validate({**params.model_dump(), **overrides})
            if params.needs_base and not runs:
                raise SpecError(
                    [f"{where}: method {params.method} changes a model, and there is no `base`"]
                )
            if config:
                self._check_base(params, config, where)
            _check_order(params, runs, where)
            upstream = {"base": runs[-1]} if params.needs_base else {}
            runs.append(
                self._step_run("method", params.method, params, upstream, data, seed, where)
            )
        if not runs:
            raise SpecError(
                [f"{where}: no steps and no base model, so there is nothing to measure"]
            )
        measured = tuple(
            self._step_run("evaluate", m.measure, m, {"model": runs[-1]}, data, seed, where)
            for m in self.study.measure
            if matches(m.measure, setting.measure)
        )
        return Cell(name, variant, seed, tuple(runs), measured)

    def _config_of(self, base: Any, run: Run) -> dict[str, Any]:
        """What is known of the base's `config.json` before any job starts."""
        if not isinstance(base, PathBase):
            return run.spec.get("config", {})
        try:
            found = json.loads((Path(base.path) / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # the import says what is wrong with the directory
        return found if isinstance(found, dict) else {}

    def _check_base(self, params: StepParams, config: dict, where: str) -> None:
        try:
            params.check_base(config)
        except RetrofitError as error:
            raise SpecError([f"{where}: {error}"]) from None

    def _step_run(
        self,
        kind: str,
        name: str,
        params: StepParams,
        upstream: dict[str, Run],
        data: dict,
        seed: int,
        where: str,
    ) -> Run:
        entry = find("method" if kind == "method" else "measure", name)
        upstream, refs = dict(upstream), {}
        for role in (*params.roles, *params.optional_roles):
            if role not in data:
                if role in params.roles:
                    raise SpecError(
                        [
                            f"{where}: {name} reads the data role '{role}'; the study gives {sorted(data) or 'none'}"
                        ]
                    )
                continue
            here = [ref for ref in data[role] if not self._hindrance(ref.dataset)]
            if not here and role in params.roles:
                raise _LeftOutError(self._hindrance(data[role][0].dataset))
            refs[role] = [ref.model_dump(exclude_none=True) for ref in here]
            for ref in here:
                upstream[f"data:{ref.dataset}"] = self._data_run(ref)
        previous = upstream.get("model") or upstream.get("base")
        slug = f"{previous.slug}.{name}" if previous and previous.kind != "base" else name
        values = params.model_dump(mode="json")
        if not values["gpus"]:
            del values["gpus"]  # only where one is asked for it is part of what the run is
        threads = values["threads"]
        spec = {"params": values, "data": refs}
        module = entry.implementation.split(":")[0]
        seed_used = seed if params.stochastic else None
        return self._shared(
            Run(
                kind,
                _slug(slug),
                spec,
                entry.implementation,
                seed_used,
                upstream,
                code_of(module),
                threads,
            )
        )

    def _data_run(self, ref: DataRef) -> Run:
        # The planner's only look at the data floor.
        from methods.data.lock import data_key
        from methods.data.spec import check_reference

        name = ref.dataset
        if name not in self._data_keys:
            known = sorted(p.stem for p in (self.configs / "datasets").glob("*.yaml"))
            if name not in known:
                raise SpecError(
                    [f"{self.path}: there is no data set '{name}'; {choices(name, known)}"]
                )
            self._data_keys[name] = data_key(name)
        try:
            check_reference(ref.set)
        except RetrofitError as error:
            raise SpecError([f"{self.path}: {error}"]) from None
        # The content's hash is the truth; the code that built it only matters while it is not known.
        code = (
            ""
            if self._data_keys[name].get("content")
            else code_of(DATA_IMPLEMENTATION.split(":")[0])
        )
        return self._shared(
            Run(
                "data",
                _slug(name),
                {"dataset": name, **self._data_keys[name]},
                DATA_IMPLEMENTATION,
                None,
                {},
                code,
            )
        )

    def _base_run(self, base: Any) -> Run:
        match base:
            case HubBase():
                slug = base.huggingface.rpartition("/")[2]
                declared = base.model_dump(exclude_none=True)
            case PathBase():
                directory = Path(base.path)
                if not directory.is_dir():
                    raise SpecError(
                        [f"{self.path}: base: the directory {base.path} does not exist"]
                    )
                slug, declared = (
                    directory.name,
                    {**base.model_dump(exclude_none=True), "files": _fingerprint(directory)},
                )
            case NamedBase():
                file = self.configs / "models" / f"{base.name}.yaml"
                known = sorted(p.stem for p in file.parent.glob("*.yaml"))
                if base.name not in known:
                    raise SpecError(
                        [
                            f"{self.path}: there is no model '{base.name}'; {choices(base.name, known)}"
                        ]
                    )
                slug, declared = base.name, {"name": base.name, **strict_yaml.load(file).value}
        implementation = ENCODER_IMPLEMENTATION if declared.get("kind") else BASE_IMPLEMENTATION
        code = code_of(implementation.split(":")[0])
        return self._shared(Run("base", _slug(slug), declared, implementation, None, {}, code))

    def _shared(self, run: Run) -> Run:
        """One object for one key, so that shared prefixes are shared."""
        return self._runs.setdefault(run.name, run)

    def _hindrance(self, dataset: str) -> str | None:
        """Why a data set is left out, if it is."""
        if dataset not in self._hindrances:
            if self._without is not None:
                reason = self._without.get(dataset)
            else:
                from methods.data.lock import unavailable

                self._known_data(dataset)
                reason = unavailable(dataset)
            self._hindrances[dataset] = reason
            if reason:
                self.left_out[dataset] = reason
        return self._hindrances[dataset]

    def _known_data(self, name: str) -> None:
        known = sorted(p.stem for p in (self.configs / "datasets").glob("*.yaml"))
        if name not in known:
            raise SpecError([f"{self.path}: there is no data set '{name}'; {choices(name, known)}"])


def _check_order(params: Any, before: list[Run], where: str) -> None:
    """A base may be the saved result of the step that is asked for, so only steps are judged."""
    steps = [run.spec["params"]["method"] for run in before if run.kind == "method"]
    if params.follows and steps and steps[-1] not in params.follows:
        raise SpecError(
            [
                f"{where}: {params.method} follows {' or '.join(params.follows)}, and here it follows {steps[-1]}"
            ]
        )


def _fingerprint(directory: Path) -> dict[str, list[int]]:
    """Size and modification time of each file of a local model: enough to notice that it was replaced."""
    return {
        file.name: [file.stat().st_size, file.stat().st_mtime_ns]
        for file in sorted(directory.iterdir())
        if file.is_file()
    }


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.+_-]+", "-", text.lower()).strip("-.")

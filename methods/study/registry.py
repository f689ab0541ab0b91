"""Which methods and measures exist, without importing what they compute with.

Every family declares its parameters in `methods/<family>/params.py` (or, a folder deeper, one per paper), which
holds pydantic models only;
the code that does the work is named as "module:function" and imported when a run needs it.
Planning, tables and `--help` therefore never pay for torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from methods.study.errors import RetrofitError, choices
from methods.study.spec_model import SpecModel

PACKAGE = Path(__file__).resolve().parents[1]


class StepParams(SpecModel):
    """What methods and measures have in common."""

    stochastic: ClassVar[bool] = True
    """Does the result depend on the seed?  Where it does not, one run serves every seed."""
    roles: ClassVar[tuple[str, ...]] = ()
    """The data roles of the study (train, calibration, eval, ...) that the code cannot do without."""
    optional_roles: ClassVar[tuple[str, ...]] = ()
    """Data roles that the code reads where the study gives them."""

    threads: int = Field(
        1, ge=1, description="CPU threads of the job; part of the key, because sums depend on it."
    )

    gpus: Literal[0, 1] = Field(
        0, description="1: the job waits for a GPU and runs there; part of the key, as threads are."
    )

    def check_base(self, config: dict) -> None:
        """Refuse, before any job starts, a base model (its `config.json`) that cannot work."""


class MethodParams(StepParams):
    """One step of a variant's chain."""

    needs_base: ClassVar[bool] = True
    """False for a step that makes its model or estimates from data alone."""
    follows: ClassVar[tuple[str, ...]] = ()
    """The methods one of which must have made what this one starts from; empty: any model will do."""
    method: str


class MeasureParams(StepParams):
    """One measurement of a variant's result."""

    stochastic: ClassVar[bool] = False
    comparable: ClassVar[bool] = True
    """False for wall-clock figures, which no other machine can be asked to reproduce."""
    measure: str


@dataclass(frozen=True)
class Entry:
    """A registered method or measure."""

    name: str
    kind: Literal["method", "measure"]
    params: type[StepParams]
    implementation: str
    paper: str | None

    def load(self) -> Callable:
        """The function that does the work; this is where heavy imports happen."""
        module, function = self.implementation.split(":")
        return getattr(importlib.import_module(module), function)


_entries: dict[tuple[str, str], Entry] = {}


def register(implementation: str, paper: str | None = None) -> Callable[[type], type]:
    """Declare a `MethodParams` or `MeasureParams` class and the "module:function" behind it."""

    def declare(params: type[StepParams]) -> type[StepParams]:
        kind = "method" if issubclass(params, MethodParams) else "measure"
        name = params.model_fields[kind].default
        known = _entries.get((kind, name))
        if known and known.implementation != implementation:
            raise RetrofitError(
                f"{kind} '{name}' is declared twice: {known.implementation} and {implementation}"
            )
        _entries[kind, name] = Entry(name, kind, params, implementation, paper)
        return params

    return declare


@cache
def entries(kind: str) -> dict[str, Entry]:
    """Every method ("method") or measure ("measure") by name, in alphabetical order."""
    for path in sorted(PACKAGE.glob("**/params.py")):
        folders = path.relative_to(PACKAGE.parent).with_suffix("")
        importlib.import_module(".".join(folders.parts))
    return {name: entry for (its_kind, name), entry in sorted(_entries.items()) if its_kind == kind}


def find(kind: str, name: str) -> Entry:
    """The entry of that name; raises RetrofitError with the nearest match."""
    known = entries(kind)
    if name not in known:
        raise RetrofitError(f"there is no {kind} '{name}'; {choices(name, known)}")
    return known[name]

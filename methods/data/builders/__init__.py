"""From verified raw files to splits: one module for each family of data set.

A builder is a module with `Options` (what the YAML may say under `builder:`) and
`build(files, options)`, a pure function from {file name: bytes} to {split name: content}. A file whose
name ends in "/" is a folder of the user's own, and `build` is given its path.
Adding a builder is adding a file here.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from methods.study.errors import choices


def names() -> list[str]:
    """The builders that exist, as a YAML names them."""
    modules = (info.name for info in pkgutil.iter_modules(__path__))
    return sorted(name.replace("_", "-") for name in modules if name != "options")


def find(name: str) -> ModuleType:
    """The builder's module; ValueError with the nearest name."""
    if name not in names():
        raise ValueError(f"there is no builder '{name}'; {choices(name, names())}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")

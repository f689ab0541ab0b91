"""From a reference such as `wikipedia.train` to the data, with errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from methods.data import formats, kinds
from methods.study.errors import RetrofitError, choices

if TYPE_CHECKING:
    from methods.study.specification import DataRef


def load(reference: str | DataRef, root: Path | str = Path("data")) -> kinds.Split:
    """The split that `reference` ("name.split", or an object with such a `set`) names, from `root`.

    How much of it is used (`tokens`, `limit`) is the caller's affair: the whole split comes back.
    Raises RetrofitError: unknown set, unknown split, not built yet, damaged.
    """
    text = reference if isinstance(reference, str) else reference.set
    root = Path(root)
    name, dot, split = text.rpartition(".")
    if not dot:
        name, split = text, ""
    directory = root / name
    if not name or not (directory / formats.INDEX).is_file():
        known = declared(root)
        if name not in known:
            raise RetrofitError(f"there is no data set '{name}'; {choices(name, known)}")
        raise RetrofitError(
            f"data set '{name}' is not built in {root}/; run: python -m methods data {name}"
        )
    try:
        splits = formats.index(directory)
        if split in splits:
            return formats.read(directory, split, f"{name}.{split}")
    except (OSError, ValueError, KeyError) as error:
        raise RetrofitError(
            f"data set '{name}' in {directory} is damaged ({error}); "
            f"run: python -m methods data {name} --refresh"
        ) from None
    asked = f"has no split '{split}'" if split else "needs a split"
    raise RetrofitError(f"data set '{name}' {asked}; {choices(split, splits)}")


def declared(root: Path) -> list[str]:
    """Names of the data sets declared beside `root`, or built in it."""
    found = {path.stem for path in (root.parent / "configs" / "datasets").glob("*.yaml")}
    found.update(path.parent.name for path in root.glob(f"*/{formats.INDEX}"))
    return sorted(found)

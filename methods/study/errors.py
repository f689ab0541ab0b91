"""Errors that a user can act on.  The command line prints them as one sentence, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RetrofitError(Exception):
    """Something the user can mend: the message names what, where and what is allowed."""


class SpecError(RetrofitError):
    """A YAML file that does not say what it must; one line for each problem found."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        super().__init__("\n".join(problems))


def nearest(name: object, allowed: Iterable[object]) -> str | None:
    """The allowed name that is most like `name`, or None where nothing comes close."""
    names = [str(candidate) for candidate in allowed]
    found = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return found[0] if found else None


def choices(name: object, allowed: Iterable[object]) -> str:
    """ "did you mean X? allowed: X, Y, Z" — the tail of every message about a wrong name."""
    names = [str(candidate) for candidate in allowed]
    guess = nearest(name, names)
    hint = f"did you mean '{guess}'? " if guess else ""
    return f"{hint}allowed: {', '.join(names) if names else 'nothing'}"

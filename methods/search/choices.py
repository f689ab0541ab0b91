"""Decisions of a search space and the sizes that follow from them (no torch here).

A :class:`Choice` is one decision with its options, in the order in which its architecture weights
stand. A layer's axis has a *size*: a choice itself, a product of choices (embedding times MLP
ratio), or a :class:`Part` of a choice between operations. An architecture is `{name: option}`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from methods.study.errors import RetrofitError, choices

Architecture = dict[str, Any]
"""One option of each decision, by name."""


class Size(Protocol):
    """The size of an axis as a function of decisions."""

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The decisions that it depends on, each once."""
        ...

    def size(self, *options: Any) -> int:
        """The size under one option of each decision, in the order of :attr:`choices`."""
        ...


@dataclass(frozen=True)
class Choice:
    """One decision. Raises RetrofitError without options, and for an option that stands twice."""

    name: str
    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        if not self.options:
            raise RetrofitError(f"the choice '{self.name}' has no options: nothing to search")
        if len(set(self.options)) < len(self.options):
            raise RetrofitError(f"the choice '{self.name}' has an option twice: {self.options}")

    @property
    def choices(self) -> tuple[Choice, ...]:
        """Itself."""
        return (self,)

    def size(self, *options: Any) -> int:
        """The option."""
        return int(options[0])

    def index(self, option: Any) -> int:
        """Where an option stands. Raises RetrofitError for one that is not there."""
        if option not in self.options:
            raise RetrofitError(f"{self.name} = {option!r}: {choices(option, self.options)}")
        return self.options.index(option)

    def __mul__(self, other: Choice) -> Product:
        return Product((self, other))


@dataclass(frozen=True)
class Product:
    """The product of several decisions, such as embedding x MLP ratio; every one must be whole."""

    factors: tuple[Choice, ...]

    def __post_init__(self) -> None:
        for options in itertools.product(*(factor.options for factor in self.factors)):
            if math.prod(options) != int(math.prod(options)):
                names = " x ".join(factor.name for factor in self.factors)
                raise RetrofitError(f"{names} = {options} is no whole number")

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The factors."""
        return self.factors

    def size(self, *options: Any) -> int:
        """Their product."""
        return int(math.prod(options))


@dataclass(frozen=True)
class Part:
    """The options of a decision between operations that one shared operation can play.

    sizes: option -> size of the axis (`{"sep3": 3, "sep5": 5}`). Its weights are the decision's,
    normalised within the part; how much the part counts among others is not its business.
    """

    parent: Choice
    sizes: tuple[tuple[Any, int], ...]

    def __post_init__(self) -> None:
        for option, _ in self.sizes:
            self.parent.index(option)

    @classmethod
    def of(cls, parent: Choice, sizes: Mapping[Any, int]) -> Part:
        """From a mapping."""
        return cls(parent, tuple(sizes.items()))

    @property
    def name(self) -> str:
        """Unique for what it holds."""
        return f"{self.parent.name}[{'+'.join(str(option) for option in self.options)}]"

    @property
    def options(self) -> tuple[Any, ...]:
        """The parent's options that belong here."""
        return tuple(option for option, _ in self.sizes)

    @property
    def choices(self) -> tuple[Any, ...]:
        """Itself."""
        return (self,)

    def size(self, *options: Any) -> int:
        """The size under the parent's option."""
        return dict(self.sizes)[options[0]]

    def index(self, option: Any) -> int:
        """Where an option of the parent stands in this part."""
        return self.options.index(option)


def combinations(size: Size) -> Iterator[tuple[Any, ...]]:
    """Every combination of options; the first decision is the slowest."""
    return itertools.product(*(choice.options for choice in size.choices))


def distinct(sizes: Iterable[Size | None]) -> list[Any]:
    """The decisions behind several axes, each once, in order."""
    found: dict[str, Any] = {}
    for size in sizes:
        for choice in size.choices if size is not None else ():
            found.setdefault(choice.name, choice)
    return list(found.values())


def size_in(size: Size, architecture: Mapping[str, Any]) -> int:
    """The size under an architecture."""
    return size.size(*(option_in(choice, architecture) for choice in size.choices))


def option_in(choice: Choice | Part, architecture: Mapping[str, Any]) -> Any:
    """What an architecture decides for a choice, or for a part's parent."""
    return architecture[choice.parent.name if isinstance(choice, Part) else choice.name]


@dataclass(frozen=True)
class Space:
    """All decisions of a network, by name. Raises RetrofitError for an empty one."""

    choices: dict[str, Choice]

    def __post_init__(self) -> None:
        if not self.choices:
            raise RetrofitError(
                "the search space is empty: no layer was given a choice with options"
            )

    @classmethod
    def of(cls, found: Iterable[Choice | Part]) -> Space:
        """Of the decisions of layers; RetrofitError where one name has two sets of options."""
        choices: dict[str, Choice] = {}
        for item in found:
            choice = item.parent if isinstance(item, Part) else item
            if choices.setdefault(choice.name, choice) != choice:
                raise RetrofitError(
                    f"two choices are called '{choice.name}', with options "
                    f"{choices[choice.name].options} and {choice.options}"
                )
        return cls(choices)

    @property
    def size(self) -> int:
        """How many architectures there are."""
        return math.prod(len(choice.options) for choice in self.choices.values())

    def __iter__(self) -> Iterator[Architecture]:
        """Every architecture; the first decision is the slowest."""
        for options in itertools.product(*(c.options for c in self.choices.values())):
            yield dict(zip(self.choices, options, strict=True))

    def check(self, architecture: Mapping[str, Any]) -> Architecture:
        """The architecture in the space's order. Raises RetrofitError where it does not belong here."""
        for name in architecture:
            if name not in self.choices:
                raise RetrofitError(f"there is no choice '{name}'; {choices(name, self.choices)}")
        missing = [name for name in self.choices if name not in architecture]
        if missing:
            raise RetrofitError(f"the architecture decides nothing for {', '.join(missing)}")
        for name, choice in self.choices.items():
            choice.index(architecture[name])
        return {name: architecture[name] for name in self.choices}

    def indices(self, architecture: Mapping[str, Any]) -> list[int]:
        """Index of each decision's option."""
        return [choice.index(architecture[name]) for name, choice in self.choices.items()]

    def at(self, indices: Iterable[int]) -> Architecture:
        """The architecture of such indices."""
        return {
            name: choice.options[int(index)]
            for (name, choice), index in zip(self.choices.items(), indices, strict=True)
        }

    def largest(self) -> Architecture:
        """The largest option of each decision; of named operations the last."""
        return {
            name: max(choice.options) if _numeric(choice) else choice.options[-1]
            for name, choice in self.choices.items()
        }

    def random(self, generator: Any) -> Architecture:
        """Uniform by a NumPy generator."""
        return self.at(generator.integers(len(c.options)) for c in self.choices.values())


def genotype(architecture: Mapping[str, Any]) -> str:
    """One line that says which architecture it is: `width=8 kernel=5`."""
    return " ".join(f"{name}={option}" for name, option in architecture.items())


def read_genotype(text: str, space: Space) -> Architecture:
    """The inverse of :func:`genotype`."""
    said = dict(item.split("=", 1) for item in text.split())
    by_text = {
        name: {str(option): option for option in choice.options}
        for name, choice in space.choices.items()
    }
    return space.check(
        {name: by_text.get(name, {}).get(value, value) for name, value in said.items()}
    )


def _numeric(choice: Choice) -> bool:
    return all(isinstance(option, int | float) for option in choice.options)

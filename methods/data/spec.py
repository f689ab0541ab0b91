"""What a file of `configs/datasets/` may say: raw files pinned by checksum, where to get them, how to build.

The checksum belongs to a raw *file*, not to the archive that carries it, and for a compressed file to
what it holds: so any platform's wheel, a newer Debian package, a web address or a local copy serve
equally well, and none is trusted more than another.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from methods.data import builders
from methods.data.builders.options import BuilderOptions
from methods.study import strict_yaml
from methods.study.errors import RetrofitError, SpecError, choices
from methods.study.keys import digest
from methods.study.loading import _check as validated
from methods.study.spec_model import SpecModel

LARGEST_RAW = 2_000_000_000
"""Bytes; bounds what an unpinned local file may make us read."""


class RawFile(SpecModel):
    """One file that the builder reads; or, where its name ends in "/", a folder of the user's own."""

    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Of the file's content after decompression.  Only a file of the user's own (`path`) may go without."""
    bytes: int | None = Field(None, ge=1, le=LARGEST_RAW)
    """Exact size after decompression; more is never read, so no archive can fill the memory or disk."""
    compression: Literal["gzip", "bz2", "xz"] | None = None
    """How every source stores the file."""

    @property
    def limit(self) -> int:
        """The most bytes that may be read."""
        return self.bytes or LARGEST_RAW


def is_folder(name: str) -> bool:
    """Whether a name of `files` stands for a folder, which is read in place and never copied."""
    return name.endswith("/")


class Source(SpecModel):
    """A place that has some or all of the files."""

    kind: str
    files: dict[str, str] = Field(min_length=1)
    """{file name: member of the archive ("." is the archive itself), path in the repository, address or local path}."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What a message calls this source."""


class _Package(Source):
    package: str = Field(pattern=r"^(@[a-z0-9._-]+/)?[A-Za-z0-9][A-Za-z0-9._+-]*$")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+~:!_-]*$")

    @property
    def label(self) -> str:
        """What a message calls this source."""
        return f"{self.kind} {self.package} {self.version}"

    @field_validator("files")
    @classmethod
    def _members_stay_inside(cls, files: dict[str, str]) -> dict[str, str]:
        for member in files.values():
            if member.startswith("/") or ".." in member.split("/"):
                raise ValueError(f"'{member}' does not name a member of an archive")
        return files


class PypiSource(_Package):
    """A wheel, or the same package where it is installed already; needs pip."""

    kind: Literal["pypi"]
    sdist: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """SHA-256 of the source distribution, where that is what holds the files. pip runs its setup script to read its
    name, so unlike a wheel it is pinned as a whole, and pip checks this before anything of it runs."""


class NpmSource(_Package):
    """A package of the npm registry; needs npm."""

    kind: Literal["npm"]


class DebianSource(_Package):
    """A Debian package; needs apt-get, not root.  Another version serves if its files are the same."""

    kind: Literal["debian"]


class HuggingFaceSource(Source):
    """Files of a data set repository on the Hugging Face hub."""

    kind: Literal["huggingface"]
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern="^[0-9a-f]{40}$")
    """A commit; branches move."""

    @property
    def label(self) -> str:
        """What a message calls this source."""
        return f"huggingface {self.repo}"


class UrlSource(Source):
    """Web addresses."""

    kind: Literal["url"]

    @field_validator("files")
    @classmethod
    def _addresses(cls, files: dict[str, str]) -> dict[str, str]:
        for address in files.values():
            if not address.startswith(("https://", "http://")):
                raise ValueError(f"'{address}' is no http(s) address")
        return files

    @property
    def label(self) -> str:
        """What a message calls this source."""
        return f"url {next(iter(self.files.values())).split('/')[2]}"


class PathSource(Source):
    """Files of this machine; `$NAME` at the start of a path is an environment variable, `~` the home."""

    kind: Literal["path"]

    @property
    def label(self) -> str:
        """What a message calls this source."""
        return f"path {next(iter(self.files.values()))}"


AnySource = Annotated[
    PypiSource | NpmSource | DebianSource | HuggingFaceSource | UrlSource | PathSource,
    Field(discriminator="kind"),
]


class DataSet(SpecModel):
    """One data set."""

    title: str
    licence: str
    """Of the data, and how its authors want to be named."""
    description: str
    optional: bool = False
    """True: a run may go without it, and not having it is no error."""
    files: dict[str, RawFile] = Field(min_length=1)
    """The raw files by name."""
    sources: list[AnySource] = Field(min_length=1)
    """Tried in this order until one serves; or each with its part of the files, and all are needed."""
    builder: dict[str, Any]
    """`name` and the builder's own options."""

    @model_validator(mode="after")
    def _consistent(self) -> DataSet:
        for number, source in enumerate(self.sources):
            for name in source.files:
                if name not in self.files:
                    raise ValueError(
                        f"sources[{number}] has a file '{name}' that `files` does not declare; "
                        f"{choices(name, self.files)}"
                    )
                if is_folder(name) and source.kind != "path":
                    raise ValueError(f"'{name}' is a folder, which only a source of kind path has")
                if self.files[name].sha256 is None and source.kind != "path":
                    raise ValueError(f"file '{name}' comes over the network and needs a sha256")
        for name, raw in self.files.items():
            if is_folder(name) and raw != RawFile():
                raise ValueError(f"'{name}' is a folder and has no checksum, size or compression")
        enough = [self._enough(source.files) for source in self.sources]
        together = self._enough({name for source in self.sources for name in source.files})
        if not all(enough) and (any(enough) or not together):
            number = enough.index(False)
            wanted = " or ".join(str(sorted(need)) for need in self.options.needs)
            raise ValueError(
                f"sources[{number}] has {sorted(self.sources[number].files)}; the builder needs {wanted}"
            )
        return self

    def _enough(self, names: Iterable[str]) -> bool:
        """Whether the builder can work with these files."""
        return any(need <= set(names) for need in self.options.needs)

    @property
    def parts(self) -> list[list[AnySource]]:
        """The sources, grouped so that one of each group has to serve.

        One group where any source alone is enough; else, where each has its part only, those that
        have the same files.
        """
        if self._enough(self.sources[0].files):
            return [self.sources]
        groups: dict[frozenset[str], list[AnySource]] = {}
        for source in self.sources:
            groups.setdefault(frozenset(source.files), []).append(source)
        return list(groups.values())

    @property
    def options(self) -> BuilderOptions:
        """The builder's options, checked; ValueError or ValidationError where they are wrong."""
        module = builders.find(str(self.builder.get("name")))
        return module.Options.model_validate(self.builder)

    @property
    def splits(self) -> list[str]:
        """The splits that building makes."""
        return self.options.splits

    @property
    def declaration(self) -> str:
        """A hash of all that decides the bytes: raw checksums and the builder, not where files are got."""
        pins = {name: raw.sha256 for name, raw in self.files.items()}
        return digest({"files": pins, "builder": self.options.model_dump()}, length=16)


def directory_of(root: Path) -> Path:
    """Where the declarations for the data in `root` are."""
    return Path(root).absolute().parent / "configs" / "datasets"


def declared(root: Path) -> list[str]:
    """Names of all declared data sets."""
    return sorted(path.stem for path in directory_of(root).glob("*.yaml"))


def find(name: str, root: Path = Path("data")) -> DataSet:
    """The declaration of one data set; RetrofitError with the nearest name, SpecError with the line."""
    path = directory_of(root) / f"{name}.yaml"
    if not path.is_file():
        raise RetrofitError(f"there is no data set '{name}'; {choices(name, declared(root))}")
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, _changed: int) -> DataSet:
    document = strict_yaml.load(path)
    if not isinstance(document.value, dict):
        raise SpecError([f"{path}: expected a mapping"])
    return validated(DataSet, document.value, document)


def check_reference(reference: str, root: Path = Path("data")) -> None:
    """Refuse, before anything is built, a "name.split" that no declaration makes."""
    name, _, split = reference.rpartition(".")
    data_set = find(name or reference, root)
    if split not in data_set.splits:
        raise RetrofitError(
            f"data set '{name}' has no split '{split}'; {choices(split, data_set.splits)}"
        )

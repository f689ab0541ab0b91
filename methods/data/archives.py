"""Reading one member of a wheel, an npm tarball or a Debian package in place.

Nothing is unpacked to the disk, no code of a package runs, and never more bytes are read than the
declaration says the file has: an archive that lies about its sizes is refused, not followed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LARGEST_STREAM = 4_000_000_000
"""Bytes of a decompressed tar that may pass by on the way to a member."""
LARGEST_MEMBER = 64_000_000
"""Bytes of one file of a package that is read as a whole."""
WHOLE = "."
"""Named as a member: the archive itself."""
_DAMAGED = (OSError, EOFError, ValueError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile)


class ArchiveError(Exception):
    """The archive is damaged, lacks the member, or holds something it should not."""


def read_members(archive: Path, wanted: dict[str, int]) -> dict[str, bytes]:
    """{member: bytes} for `wanted` = {member: most bytes}; ArchiveError names the member.

    The member "." is the archive itself, for builders that read many of its files.
    """
    if WHOLE in wanted:
        with archive.open("rb") as file:
            whole = _bounded(file, wanted[WHOLE], archive.name)
        rest = {member: most for member, most in wanted.items() if member != WHOLE}
        return {WHOLE: whole} | (read_members(archive, rest) if rest else {})
    try:
        if archive.suffix in (".whl", ".zip"):
            found = _from_zip(archive, wanted)
        elif archive.suffix == ".deb":
            with archive.open("rb") as file, _deb_data(file) as stream:
                found = _from_tar(stream, wanted)
        else:
            with gzip.open(archive) as stream:
                found = _from_tar(stream, wanted)
    except ArchiveError:
        raise
    except _DAMAGED as error:
        raise ArchiveError(f"{archive.name} is damaged: {error}") from error
    for member in wanted:
        if member not in found:
            raise ArchiveError(f"{archive.name} has no member {member}")
    return found


def members_under(
    package: bytes, prefixes: tuple[str, ...], suffixes: tuple[str, ...]
) -> dict[str, bytes]:
    """{member: bytes} of the files of a Debian package that begin and end so; sorted by name.

    For builders that read hundreds of files of one package, whose checksum stands for them all.
    ArchiveError where the package is damaged, or a file is larger than `LARGEST_MEMBER`.
    """
    found = {}
    try:
        with (
            _deb_data(io.BytesIO(package)) as stream,
            tarfile.open(fileobj=_Metered(stream), mode="r|") as opened,
        ):
            for info in opened:
                name = info.name.removeprefix("./")
                if info.isreg() and name.startswith(prefixes) and name.endswith(suffixes):
                    found[name] = _bounded(opened.extractfile(info), LARGEST_MEMBER, name)
    except ArchiveError:
        raise
    except _DAMAGED as error:
        raise ArchiveError(f"the package is damaged: {error}") from error
    return dict(sorted(found.items()))


def decompress(body: bytes, compression: str | None, limit: int) -> bytes:
    """`body` without its compression, at most `limit` bytes; ArchiveError otherwise."""
    if compression is None:
        return body
    opener = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}[compression]
    try:
        with opener(io.BytesIO(body)) as stream:
            return _bounded(stream, limit, "the file")
    except _DAMAGED as error:
        raise ArchiveError(f"not a sound {compression} file: {error}") from error


def _bounded(stream: IO[bytes], limit: int, name: str) -> bytes:
    body = stream.read(limit + 1)
    if len(body) > limit:
        raise ArchiveError(f"{name} is larger than the {limit} bytes declared")
    return body


def _from_zip(archive: Path, wanted: dict[str, int]) -> dict[str, bytes]:
    found = {}
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
        for member in wanted.keys() & names:
            with opened.open(member) as stream:
                found[member] = _bounded(stream, wanted[member], member)
    return found


class _Metered(io.RawIOBase):
    """A stream that stops a tar whose decompressed size runs away."""

    def __init__(self, stream: IO[bytes]):
        self.stream, self.passed = stream, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        body = self.stream.read(size)
        self.passed += len(body)
        if self.passed > LARGEST_STREAM:
            raise ArchiveError(f"the archive unpacks to more than {LARGEST_STREAM} bytes")
        return body


def _from_tar(stream: IO[bytes], wanted: dict[str, int]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=_Metered(stream), mode="r|") as opened:
        for info in opened:
            name = info.name.removeprefix("./")
            if name not in wanted:
                continue
            file = opened.extractfile(info) if info.isreg() else None
            if file is None:
                raise ArchiveError(f"{name} is no regular file")
            found[name] = _bounded(file, wanted[name], name)
            if len(found) == len(wanted):
                break
    return found


@contextmanager
def _deb_data(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """The decompressed `data.tar` of a Debian package, which is an `ar` archive of three members."""
    if file.read(8) != b"!<arch>\n":
        raise ArchiveError("not a Debian package")
    while header := file.read(60):
        if len(header) < 60 or header[58:] != b"`\n":
            raise ArchiveError("the Debian package is damaged")
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        size = int(header[48:58])
        if name.startswith("data.tar"):
            body = io.BytesIO(file.read(size))
            openers = {"data.tar": lambda b: b, "data.tar.gz": gzip.open, "data.tar.bz2": bz2.open}
            opener = {**openers, "data.tar.xz": lzma.open}.get(name)
            if opener is None:
                raise ArchiveError(f"{name} is compressed in a way that Python cannot read")
            with opener(body) as stream:
                yield stream
            return
        file.seek(size + size % 2, 1)
    raise ArchiveError("the Debian package holds no data")

"""Every kind of source on archives made here: whole, tampered, truncated, lying about their size."""

import gzip
import hashlib
import io
import os
import stat
import tarfile
import zipfile

import pytest

from methods.data import sources
from methods.data.archives import ArchiveError, read_members
from methods.data.sources import obtain
from methods.data.spec import RawFile
from methods.study.errors import RetrofitError

BODY = b"ten bytes!" * 100
PIN = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(sources.CACHE_VARIABLE, str(tmp_path / "cache"))


def raw(**changes):
    return {"a.txt": RawFile(**{"sha256": PIN, "bytes": len(BODY), **changes})}


def path_source(path):
    from methods.data.spec import PathSource

    return PathSource(kind="path", files={"a.txt": str(path)})


def wheel(path, member="pkg/a.txt", body=BODY):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, body)
    return path


def tgz(path, member="package/a.txt", body=BODY, **fields):
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(body)
        for name, value in fields.items():
            setattr(info, name, value)
        archive.addfile(info, io.BytesIO(body))
    return path


def deb(path, member="./usr/share/a.txt", body=BODY):
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))
    parts = [
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", gzip.compress(b"")),
        ("data.tar.xz", inner.getvalue()),
    ]
    out = b"!<arch>\n"
    for name, content in parts:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    path.write_bytes(out)
    return path


def test_a_local_file_serves_and_is_kept(tmp_path):
    (tmp_path / "a.txt").write_bytes(BODY)
    found = obtain("set", raw(), [path_source(tmp_path / "a.txt")])
    assert found["a.txt"].read_bytes() == BODY
    (tmp_path / "a.txt").unlink()
    assert obtain("set", raw(), [path_source(tmp_path / "a.txt")])["a.txt"].read_bytes() == BODY


@pytest.mark.parametrize("body", [BODY[:-1], BODY[:-1] + b"?", b""])
def test_another_file_is_refused_by_name_with_both_checksums(tmp_path, body):
    (tmp_path / "a.txt").write_bytes(body)
    with pytest.raises(RetrofitError) as error:
        obtain("set", raw(), [path_source(tmp_path / "a.txt")])
    for part in ("'set'", "a.txt", hashlib.sha256(body).hexdigest(), PIN):
        assert part in str(error.value)
    assert not list((tmp_path / "cache").glob("*"))


def test_a_damaged_cache_is_noticed_and_not_used(tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(BODY)
    source = path_source(tmp_path / "a.txt")
    kept = obtain("set", raw(), [source])["a.txt"]
    kept.write_bytes(BODY[:-1] + b"?")
    with pytest.raises(RetrofitError, match=r"there is no file"):
        obtain("set", raw(), [path_source(tmp_path / "gone.txt")])
    assert "is damaged" in capsys.readouterr().err
    assert not kept.exists()


def test_each_kind_of_archive_is_read_in_place(tmp_path):
    for archive, member in (
        (wheel(tmp_path / "x-1-py3-none-any.whl"), "pkg/a.txt"),
        (tgz(tmp_path / "x-1.tgz"), "package/a.txt"),
        (deb(tmp_path / "x_1_all.deb"), "usr/share/a.txt"),
    ):
        assert read_members(archive, {member: 2000}) == {member: BODY}
        with pytest.raises(ArchiveError, match="has no member nothing"):
            read_members(archive, {"nothing": 2000})
        with pytest.raises(ArchiveError, match="larger than the 999 bytes"):
            read_members(archive, {member: 999})
        for cut in (len(archive.read_bytes()) // 2, 40, 5):
            broken = archive.with_name("cut-" + archive.name)
            broken.write_bytes(archive.read_bytes()[:cut])
            with pytest.raises(ArchiveError):
                read_members(broken, {member: 2000})


def test_links_and_devices_in_a_tar_are_not_followed(tmp_path):
    archive = tgz(tmp_path / "x.tgz", body=b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    with pytest.raises(ArchiveError, match="no regular file"):
        read_members(archive, {"package/a.txt": 2000})


@pytest.mark.parametrize("member", ["/etc/passwd", "../../outside", "pkg/../../x"])
def test_members_outside_the_archive_cannot_be_declared(member):
    from pydantic import ValidationError

    from methods.data.spec import PypiSource

    with pytest.raises(ValidationError, match="does not name a member"):
        PypiSource(kind="pypi", package="x", version="1", files={"a.txt": member})


def test_a_compression_bomb_stops_at_the_declared_size(tmp_path):
    (tmp_path / "a.txt").write_bytes(gzip.compress(b"0" * 50_000_000))
    with pytest.raises(RetrofitError, match="larger than the 1000 bytes declared"):
        obtain("set", raw(compression="gzip"), [path_source(tmp_path / "a.txt")])


def fake_client(tmp_path, monkeypatch, name, script):
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n" + script)
    os.chmod(folder / name, stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_sources_are_tried_in_order_and_every_failure_is_told(tmp_path, monkeypatch):
    from methods.data.spec import DebianSource, NpmSource, PathSource

    fake_client(tmp_path, monkeypatch, "npm", "echo 'npm error code E404' >&2; exit 1\n")
    fake_client(
        tmp_path, monkeypatch, "apt-get", "echo 'E: Unable to locate package x' >&2; exit 100\n"
    )
    declared = [
        NpmSource(kind="npm", package="x", version="1", files={"a.txt": "package/a.txt"}),
        DebianSource(kind="debian", package="x", version="1", files={"a.txt": "usr/share/a.txt"}),
        PathSource(kind="path", files={"a.txt": "$RETROFIT_NOT_SET/a.txt"}),
    ]
    with pytest.raises(RetrofitError) as error:
        obtain("set", raw(), declared)
    for part in (
        "RETROFIT_NOT_SET is not set",
        "npm x 1: npm failed: npm error code E404",
        "Unable to locate package",
    ):
        assert part in str(error.value)
    archive = tgz(tmp_path / "x-1.tgz")
    fake_client(tmp_path, monkeypatch, "npm", f"cp {archive} .\n")
    assert obtain("set", raw(), declared)["a.txt"].read_bytes() == BODY


def test_a_client_that_is_not_there_is_said(tmp_path, monkeypatch):
    from methods.data.spec import NpmSource

    monkeypatch.setenv("PATH", str(tmp_path))
    source = NpmSource(kind="npm", package="x", version="1", files={"a.txt": "package/a.txt"})
    with pytest.raises(RetrofitError, match="npm is not on this machine"):
        obtain("set", raw(), [source])
    assert sources.hindrance(source, raw()) == "npm is not on this machine"


def test_debian_packages_come_without_the_machines_package_lists(tmp_path, monkeypatch):
    from methods.data.spec import DebianSource

    package = deb(tmp_path / "x_2_all.deb")
    # Fails like apt-get on a fresh machine until lists were fetched aside, and serves version 2 only.
    fake_client(
        tmp_path,
        monkeypatch,
        "apt-get",
        f"""case "$*" in
  update*Dir::State::Lists=*) touch apt/updated ;;
  download*Dir::State::Lists=*" x") [ -f apt/updated ] && cp {package} . ;;
  *) echo "E: Unable to locate package x" >&2; exit 100 ;;
esac
""",
    )
    declared = DebianSource(
        kind="debian", package="x", version="1", files={"a.txt": "usr/share/a.txt"}
    )
    assert obtain("set", raw(), [declared])["a.txt"].read_bytes() == BODY


def test_a_web_address_serves_and_a_larger_or_missing_file_is_refused(tmp_path):
    import functools
    import http.server
    import threading

    from methods.data.spec import UrlSource

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a.txt").write_bytes(BODY)
    (tmp_path / "web" / "large").write_bytes(b"0" * 3_000_000)
    handler = functools.partial(Quiet, directory=tmp_path / "web")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        for path, message in (("large", "larger than declared"), ("gone", "gone: HTTP 404")):
            source = UrlSource(kind="url", files={"a.txt": f"{address}/{path}"})
            with pytest.raises(RetrofitError, match=message):
                obtain("set", raw(), [source])
        source = UrlSource(kind="url", files={"a.txt": f"{address}/a.txt"})
        assert obtain("set", raw(), [source])["a.txt"].read_bytes() == BODY
    finally:
        server.shutdown()
        server.server_close()


def test_pip_is_given_the_checksum_of_a_source_distribution(tmp_path, monkeypatch):
    from methods.data import sources
    from methods.data.spec import PypiSource

    asked = []

    def client(words, scratch):
        asked.append((words, (scratch / "pinned.txt").read_text()))
        tgz(scratch / "x-1.tar.gz")

    monkeypatch.setattr(sources, "_client", client)
    source = PypiSource(
        kind="pypi", package="x", version="1", sdist="a" * 64, files={"a.txt": "package/a.txt"}
    )
    found = obtain("set", raw(), [source])
    assert found["a.txt"].read_bytes() == BODY
    words, pinned = asked[0]
    assert {"--no-binary=:all:", "--require-hashes", "--no-deps"} <= set(words)
    assert pinned == f"x==1 --hash=sha256:{'a' * 64}\n"

"""data.dvc is real DVC: the same hashes, push, pull, status."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from methods.data import building, formats, kinds, lock
from methods.study.errors import RetrofitError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with one built set, made without a builder: what is tested is the lock."""
    root = tmp_path / "project"
    (root / "data" / "numbers").mkdir(parents=True)
    write(root / "data" / "numbers", 1.0)
    monkeypatch.setattr(lock.spec, "find", lambda name, root=None: Declaration())
    monkeypatch.chdir(root)
    return root


class Declaration:
    declaration = "0123456789abcdef"
    optional = False


def write(directory, value):
    table = kinds.Table(
        "numbers.all", np.full((3, 2), value), np.array([0, 1, 0]), ["a", "b"], ["x", "y"]
    )
    formats.write(directory, {"all": table})


def dvc(project, *words):
    # DVC's own site cache stays in the test's folder.
    environment = {
        **os.environ,
        "DVC_SITE_CACHE_DIR": str(project.parent / "site"),
        "DVC_NO_ANALYTICS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "dvc", *words],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_our_lock_is_what_dvc_writes_and_survives_push_and_pull(project, tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    assert dvc(project, "init", "-q").returncode == 0
    path = lock.write_lock(["numbers"], project / "data")
    before = path.read_text()
    committed = dvc(project, "commit", "-f", "data.dvc")
    assert committed.returncode == 0, committed.stderr
    assert lock.locked(project / "data")["numbers"]["md5"] in before
    assert path.read_text() == before
    assert dvc(project, "status", "-q").returncode == 0
    assert (
        dvc(project, "remote", "add", "-q", "-d", "store", str(tmp_path / "remote")).returncode == 0
    )
    assert dvc(project, "push", "-q").returncode == 0
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".dvc" / "cache")
    assert building._pulled(
        project / "data" / "numbers", lock.locked(project / "data")["numbers"]["md5"]
    )
    assert lock.content_hash(project / "data" / "numbers")[0] in before


def test_an_edited_declaration_is_noticed_before_anything_is_built(project, monkeypatch):
    lock.write_lock(["numbers"], project / "data")
    assert "content" in lock.data_key("numbers", project / "data")
    monkeypatch.setattr(Declaration, "declaration", "another")
    with pytest.raises(RetrofitError, match=r"numbers.yaml was changed after data.dvc"):
        lock.data_key("numbers", project / "data")


def test_other_bytes_have_another_hash_and_a_damaged_lock_is_named(project):
    before = lock.content_hash(project / "data" / "numbers")
    write(project / "data" / "numbers", 2.0)
    assert lock.content_hash(project / "data" / "numbers") != before
    (project / "data.dvc").write_text("outs: [")
    with pytest.raises(RetrofitError, match=r"data.dvc is damaged"):
        lock.locked(project / "data")

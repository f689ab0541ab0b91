"""Before a run reads data, the data folder is what `data.dvc` says."""

import shutil
from pathlib import Path

import pytest

from methods.data import lock
from methods.data.loading import load
from methods.verbs.execution import _right_bytes

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data folder beside the project's declarations; digits come out of the installed scikit-learn."""
    monkeypatch.setenv("RETROFIT_CACHE", str(tmp_path / "cache"))
    shutil.copytree(PROJECT / "configs" / "datasets", tmp_path / "configs" / "datasets")
    shutil.copy(PROJECT / "data.dvc", tmp_path)
    return tmp_path / "data"


def test_absent_and_edited_data_is_made_again_and_said(root, capsys):
    spec = {"upstream": {"data:digits": "data/digits-0", "base": "base/none-0"}}
    _right_bytes(spec, root)
    expected = lock.locked(root)["digits"]["md5"]
    assert lock.content_hash(root / "digits")[0] == expected
    capsys.readouterr()
    images = load("digits.test", root).x
    file = next(root.glob("digits/*test*"))
    body = bytearray(file.read_bytes())
    body[-1] ^= 1
    file.write_bytes(body)
    wrong = lock.content_hash(root / "digits")[0]
    _right_bytes(spec, root)
    said = capsys.readouterr().err
    assert f"is not what data.dvc says ({wrong}, expected {expected}): making it again" in said
    assert (load("digits.test", root).x == images).all()

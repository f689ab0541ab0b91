import errno
import json
import multiprocessing
import os
import signal
import time

import pytest

from methods.run import artifact
from methods.study.errors import RetrofitError


def finish(directory, text="payload"):
    with artifact.writing(directory) as aside:
        (aside / "model.bin").write_text(text)
        meta = {"key": "k1", "files": artifact.list_files(aside), "threads": (1, 2)}
        artifact.write_meta(aside, meta)


def test_what_is_there_is_whole(tmp_path):
    run = tmp_path / "runs" / "x-k1"
    run.mkdir(parents=True)  # a workflow engine makes the folder before the job starts
    finish(run)
    assert artifact.is_done(run, "k1")
    assert not artifact.is_done(run, "k2")
    assert artifact.check_files(run, deep=True) == []
    assert [p.name for p in run.parent.iterdir()] == ["x-k1"]


def test_an_error_leaves_nothing(tmp_path):
    run = tmp_path / "x-k1"
    with pytest.raises(FileNotFoundError), artifact.writing(run) as aside:
        (aside / "no such folder" / "half").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_keeps_the_old_run(tmp_path):
    run = tmp_path / "x-k1"
    finish(run)
    with pytest.raises(RetrofitError, match="disk is full"), artifact.writing(run):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert artifact.is_done(run, "k1")


def test_truncation_and_flipped_bytes_are_found(tmp_path):
    run = tmp_path / "x-k1"
    finish(run, "0123456789")
    (run / "model.bin").write_text("012345678X")
    assert artifact.check_files(run) == []
    assert "damaged" in artifact.check_files(run, deep=True)[0]
    (run / "model.bin").write_text("0123")
    assert "has 4 bytes, expected 10" in artifact.check_files(run)[0]
    assert not artifact.is_done(run, "k1")


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: "{",
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"k1"', '"k2"'),
        lambda text: text.replace('"bytes": 10', '"bytes": 11'),
    ],
)
def test_a_damaged_record_of_a_run_is_found_and_the_run_is_not_done(tmp_path, edit):
    run = tmp_path / "x-k1"
    finish(run, "0123456789")
    assert artifact.damage(run, "k1", deep=True) is None
    meta = run / artifact.META
    meta.write_text(edit(meta.read_text()))
    with pytest.raises(RetrofitError, match=r"meta\.json is damaged; delete"):
        artifact.read_meta(run)
    assert "is damaged" in artifact.damage(run, "k1")
    assert not artifact.is_done(run, "k1")


def test_a_record_without_a_seal_is_of_an_older_run(tmp_path):
    run = tmp_path / "x-k1"
    finish(run)
    meta = json.loads((run / artifact.META).read_text())
    del meta[artifact.SEAL]
    (run / artifact.META).write_text(json.dumps(meta))
    assert artifact.is_done(run, "k1")
    assert "is of another run" in artifact.damage(run, "k2")


def _hold(work, ready):
    with artifact.only_one("x-k1", work):
        ready.set()
        time.sleep(30)


def test_two_runs_at_once_are_refused_and_a_killed_one_lets_go(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(20)
    with (
        pytest.raises(RetrofitError, match="another process is making x-k1"),
        artifact.only_one("x-k1", tmp_path),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with artifact.only_one("x-k1", tmp_path):
        pass


def test_a_full_disk_is_said_in_one_sentence_whoever_notices_it(tmp_path):
    class ForeignError(Exception):
        """As safetensors raises: no OSError, the number in the text."""

    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        ForeignError("I/O error: No space left on device (os error 28)"),
    ):
        with (
            pytest.raises(RetrofitError, match=r"the disk is full: .*x-k1 could not be written"),
            artifact.writing(tmp_path / "x-k1"),
        ):
            raise error
    assert list(tmp_path.iterdir()) == []

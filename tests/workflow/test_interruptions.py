"""Killed, failing and doubled work: nothing half-written is taken for a result, and nothing finished is lost."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.workflow.conftest import RUNS, Project

pytestmark = pytest.mark.workflow
CHECKPOINT = "work/checkpoints/*/checkpoint.safetensors"


def jobs_of(project: Project) -> list[int]:
    """Processes at work in the project's folder on a method run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"apply" in words and os.readlink(process / "cwd") == str(project.root):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def undisturbed(skeleton, tmp_path_factory) -> Project:
    """The slow toy study, made without an interruption."""
    root = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(skeleton, root, symlinks=True)
    project = Project(root)
    project.slow_down(3)
    project.snakemake()
    return project


def test_killed_with_everything_and_resumed_to_the_same_bits(fresh, undisturbed):
    fresh.slow_down(3)
    running = fresh.start("snakemake", "--cores", "2")
    checkpoint = fresh.wait_for(CHECKPOINT)
    os.killpg(running.pid, signal.SIGKILL)
    running.communicate()
    assert checkpoint.is_file()
    finished = fresh.made()
    assert len(finished) < RUNS
    fresh.snakemake()
    assert fresh.numbers() == undisturbed.numbers()
    assert all(fresh.made()[name] == when for name, when in finished.items())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds its jobs in /proc")
def test_a_killed_job_is_named_and_the_others_finish(fresh, undisturbed):
    fresh.slow_down(3)
    running = fresh.start("snakemake", "--cores", "2")
    name = fresh.wait_for(CHECKPOINT).parent.name
    for job in jobs_of(fresh):
        words = Path(f"/proc/{job}/cmdline").read_bytes().decode()
        if name in words:
            os.kill(job, signal.SIGKILL)
    output = fresh.finish(running, ok=False)
    assert f"results/logs/method/toy-{name}.log" in output.splitlines()[-2]
    finished = fresh.made()
    assert len(finished) == RUNS - 2  # all but the killed one and its evaluation
    fresh.snakemake()
    assert fresh.numbers() == undisturbed.numbers()
    assert all(fresh.made()[name] == when for name, when in finished.items())


def test_jobs_that_outlive_snakemake_are_waited_for_and_kept(fresh, undisturbed):
    fresh.slow_down(3)
    with fresh.held():
        running = fresh.start("snakemake", "--cores", "2")
        fresh.wait_for(CHECKPOINT)
        os.kill(running.pid, signal.SIGKILL)
        output = fresh.snakemake(ok=False)
    assert "a job of an earlier snakemake still makes toy-" in output
    assert "Traceback" not in output
    deadline = time.monotonic() + 60
    while list(fresh.root.glob("work/checkpoints/*")):
        assert time.monotonic() < deadline, "the job left behind did not finish"
        time.sleep(0.1)
    time.sleep(0.5)  # it lets go of its lock
    running.communicate()
    finished = fresh.made()
    fresh.snakemake()
    assert all(fresh.made()[name] == when for name, when in finished.items())
    assert fresh.numbers() == undisturbed.numbers()


def test_two_at_once_one_works_and_one_says_why_not(fresh, undisturbed):
    fresh.slow_down(3)
    with fresh.held():
        first = fresh.start("snakemake", "--cores", "2")
        fresh.wait_for(CHECKPOINT)
        assert "another snakemake is making results/" in fresh.snakemake(ok=False)
        assert "apply" in fresh.snakemake("-n")  # looking is allowed
    fresh.finish(first)
    assert fresh.numbers() == undisturbed.numbers()


def test_a_failing_job_leaves_nothing_half_written_and_the_others_finish(fresh):
    fresh.edit(
        "configs/studies/toy.yaml",
        "small: [{method: toy, size: 1}]",
        "small: [{method: toy, fail: true}]",
    )
    output = fresh.snakemake(ok=False)
    assert "this toy was told to fail" in output
    assert "Traceback" not in output
    assert len(fresh.made()) == RUNS - 2
    assert not list(fresh.root.glob("results/runs/*/.aside*"))
    fresh.edit("configs/studies/toy.yaml", "fail: true", "size: 1")
    before = fresh.made()
    fresh.snakemake()
    assert fresh.changed(before) == ["evaluate/toy.height", "method/toy"]

"""Jobs forked from a server are the jobs that would have run without it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from methods.verbs import serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks after imports")
JOB = """
import os, sys, time
def main(words):
    print("out", *words, os.getcwd(), os.environ.get("GIVEN"), serving.ADDRESS in os.environ, flush=True)
    print("err", "json" in sys.modules, file=sys.stderr, flush=True)
    if words[0] == "fail":
        raise SystemExit(3)
    if words[0] == "die":
        os.kill(os.getpid(), 9)
    if words[0] == "sleep":
        open(words[1], "w").write(str(os.getpid()))
        time.sleep(60)
    return int(words[0] == "two") * 2
"""
SERVER = f"""
import sys
from pathlib import Path
from methods.verbs import serving
{JOB}
serving.serve(Path(sys.argv[1]), ["json", "no.such.module"], main)
"""
CLIENT = """
import sys
from methods.verbs import serving
status = serving.handed_over({"threads": int(sys.argv[1]), "spec": {}}, sys.argv[2:])
print("status", status)
sys.exit(9 if status is None else status)
"""


@pytest.fixture
def server(tmp_path):
    running = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path / "s")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout.readline() == "listening\n"
    yield running
    running.stdin.close()
    assert running.wait(30) == 0


def client(tmp_path, *words, threads=1):
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(threads), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, serving.ADDRESS: str(tmp_path / "s"), "GIVEN": "mine"},
    )


@pytest.mark.parametrize(("word", "status"), [("one", 0), ("two", 2), ("fail", 3), ("die", 137)])
def test_output_folder_environment_and_status_are_the_clients(server, tmp_path, word, status):
    running = client(tmp_path, word, "more")
    out, err = running.communicate(timeout=30)
    assert running.returncode == status
    assert f"out {word} more {tmp_path} mine False" in out
    assert "err True" in err


def test_jobs_run_side_by_side(server, tmp_path):
    slow = client(tmp_path, "sleep", str(tmp_path / "slow"))
    wait_for(tmp_path / "slow")
    quick = client(tmp_path, "one", "")
    quick.communicate(timeout=30)
    assert quick.returncode == 0
    slow.kill()
    slow.communicate()


def test_a_killed_client_takes_its_job_along(server, tmp_path):
    running = client(tmp_path, "sleep", str(tmp_path / "pid"))
    pid = int(wait_for(tmp_path / "pid"))
    running.kill()
    running.communicate()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_server_is_said_and_no_job_is_taken_for_done(tmp_path, server):
    running = client(tmp_path, "sleep", str(tmp_path / "pid"))
    pid = int(wait_for(tmp_path / "pid"))
    server.send_signal(signal.SIGSTOP)  # it cannot answer
    os.kill(pid, signal.SIGKILL)
    server.send_signal(signal.SIGCONT)
    running.communicate(timeout=30)
    assert running.returncode == 137


@pytest.mark.parametrize("address", ["", "off", "/no/such/socket"])
def test_without_a_server_the_job_is_done_here(monkeypatch, address):
    monkeypatch.setenv(serving.ADDRESS, address)
    assert serving.handed_over({"threads": 1, "spec": {}}, []) is None


def test_jobs_of_several_threads_or_a_gpu_are_not_handed_over(server, tmp_path, monkeypatch):
    monkeypatch.setenv(serving.ADDRESS, str(tmp_path / "s"))
    assert serving.handed_over({"threads": 2, "spec": {}}, []) is None
    assert serving.handed_over({"threads": 1, "spec": {"params": {"gpus": 1}}}, []) is None


def test_a_few_runs_start_no_server():
    assert serving.start(["json:loads"] * (serving.FEWEST_RUNS - 1)) is None


def test_start_and_stop(monkeypatch):
    monkeypatch.delenv(serving.ADDRESS, raising=False)
    server = serving.start(["methods.study.keys:digest"] * serving.FEWEST_RUNS)
    assert Path(os.environ[serving.ADDRESS]).is_socket()
    folder = Path(os.environ[serving.ADDRESS]).parent
    server.stop()
    assert serving.ADDRESS not in os.environ
    assert not folder.exists()


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 20
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text()

"""One process imports torch and transformers once; jobs are forked from it and skip seconds of imports each.

The workflow starts the server, and `python -m methods apply RUN` hands its work over where `RETROFIT_SERVER` names one:
the client sends its arguments, folder and file descriptors, the fork does exactly what the client would have done, and
the client ends with its exit status.  Where no server answers the client does the work itself, so the server changes
how long a job takes and nothing else.  The rules that keep it so: before a fork the server only imports; it has one
thread; it serves jobs of one CPU thread only.

A killed client takes its job along, a killed server its jobs' clients (they say so and fail).  A server whose workflow
is gone finishes the jobs it has and ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ADDRESS = "RETROFIT_SERVER"
"""Environment variable that names the server's socket; empty or `off`: every job imports for itself."""
FEWEST_RUNS = 3
"""Missing runs from which a server pays."""
PINNED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
HEAVY = {"transformers": ("transformers.models.auto", "transformers.models.llama.modeling_llama")}
"""What a package imports late, when first asked for a model."""


def pin_threads(threads: int) -> None:
    """Set what numerical libraries read when they are imported."""
    for variable in PINNED:
        os.environ[variable] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# --- the workflow's side -------------------------------------------------------------------------


class Server:
    """A running server; `stop` ends it when its jobs are done."""

    def __init__(self, modules: Iterable[str]):
        # A folder of its own, which nobody else may enter; the server removes it when it ends.
        address = Path(tempfile.mkdtemp(prefix="retrofit-")) / "socket"
        command = [sys.executable, "-m", "methods.verbs.serving", str(address), *modules]
        # It lives as long as its standard input is open: until this process ends, however it ends.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._process.stdout.readline().strip() == "listening":
            os.environ[ADDRESS] = str(address)

    def stop(self) -> None:
        """Let the server end."""
        os.environ.pop(ADDRESS, None)
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


def start(implementations: Iterable[str]) -> Server | None:
    """A server for missing runs with these implementations ("module:function", one a run), where it pays."""
    wanted = list(implementations)
    if os.environ.get(ADDRESS) == "off" or sys.platform != "linux" or len(wanted) < FEWEST_RUNS:
        return None
    return Server(sorted({implementation.partition(":")[0] for implementation in wanted}))


# --- the job's side ------------------------------------------------------------------------------


def handed_over(spec: dict, arguments: list[str]) -> int | None:
    """The exit status of the job as the server did it, or None: do it here."""
    address = os.environ.get(ADDRESS)
    gpus = spec["spec"].get("params", {}).get("gpus", 0)
    if not address or address == "off" or spec["threads"] != 1 or gpus:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(address)
        except OSError:
            return None
        request = json.dumps(
            {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        )
        # An interrupt reaches the fork as well, which answers it; this process only passes the status on.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        socket.send_fds(connection, [b"x"], [0, 1, 2])
        connection.sendall(request.encode() + b"\n")
        answer = connection.makefile("r").readline()
    if not answer:
        print("error: the process that jobs are forked from ended", file=sys.stderr)
        return 1
    return int(answer)


# --- the server ----------------------------------------------------------------------------------


@dataclass
class _Job:
    pid: int
    ended: int
    """Read end of a pipe that the job holds open while it lives."""
    client: socket.socket


def serve(address: Path, modules: Iterable[str], main: Callable[[list[str]], int]) -> None:
    """Answer requests until standard input closes and the last job is done."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(address))
    listener.listen(64)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("listening", flush=True)  # clients may queue while this process imports
    _import(modules)
    jobs: dict[int, _Job] = {}
    with selectors.DefaultSelector() as waiting:
        waiting.register(listener, selectors.EVENT_READ, "request")
        waiting.register(sys.stdin, selectors.EVENT_READ, "parent")
        open_ = True
        while open_ or jobs:
            for key, _ in waiting.select():
                if key.data == "request":
                    job = _fork(listener, waiting, main)
                    if job:
                        jobs[job.pid] = job
                elif key.data == "parent":
                    open_ = False
                    waiting.unregister(sys.stdin)
                    waiting.unregister(listener)
                    listener.close()
                elif key.fileobj == key.data.ended:
                    _report(jobs.pop(key.data.pid), waiting)
                elif key.data.pid in jobs:  # its client is gone
                    waiting.unregister(key.data.client)
                    os.kill(key.data.pid, signal.SIGTERM)


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        # What cannot be imported fails in the job, which can say why.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    if "methods.models.language" in sys.modules:
        for module in HEAVY["transformers"]:
            with contextlib.suppress(Exception):
                importlib.import_module(module)


def _fork(
    listener: socket.socket, waiting: selectors.BaseSelector, main: Callable[[list[str]], int]
) -> _Job | None:
    client, _ = listener.accept()
    try:
        _, descriptors, _, _ = socket.recv_fds(client, 1, 3)
        request = json.loads(client.makefile("r").readline())
    except (OSError, ValueError):
        client.close()
        return None
    ended, alive = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ended)
        client.close()
        _be_the_job(request, descriptors, waiting, main)
    os.close(alive)
    for descriptor in descriptors:
        os.close(descriptor)
    job = _Job(pid, ended, client)
    waiting.register(ended, selectors.EVENT_READ, job)
    waiting.register(client, selectors.EVENT_READ, job)
    return job


def _be_the_job(
    request: dict,
    descriptors: list[int],
    waiting: selectors.BaseSelector,
    main: Callable[[list[str]], int],
) -> None:
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Other jobs' clients and pipes are not this job's to hold open.
        for key in list(waiting.get_map().values()):
            if key.fileobj is not sys.stdin:
                os.close(key.fd)
        waiting.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(request["environment"])
        os.environ.pop(ADDRESS, None)
        os.chdir(request["folder"])
        status = main(request["arguments"])
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _report(job: _Job, waiting: selectors.BaseSelector) -> None:
    _, code = os.waitpid(job.pid, 0)
    status = os.waitstatus_to_exitcode(code)
    waiting.unregister(job.ended)
    os.close(job.ended)
    with contextlib.suppress(KeyError):
        waiting.unregister(job.client)
    with contextlib.suppress(OSError):
        job.client.sendall(f"{status if status >= 0 else 128 - status}\n".encode())
    job.client.close()


if __name__ == "__main__":
    pin_threads(1)
    from methods.__main__ import main as command_line

    try:
        serve(Path(sys.argv[1]), sys.argv[2:], command_line)
    finally:
        shutil.rmtree(Path(sys.argv[1]).parent, ignore_errors=True)

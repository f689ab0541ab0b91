"""What a workflow survives: it is killed at random moments, its files are damaged, its disk fills; then one plain
`snakemake` has to end with what an undisturbed run publishes, bit for bit.

    python benchmarks/faults.py --kills 50 --damages 30 --seed 0

The study trains two small vision transformers on the digits of scikit-learn with three seeds, quantises them in two
steps and measures them: chains, shared prefixes, checkpoints, evaluations, tables. Everything happens in a copy of the
project in a temporary folder. Kills hit a job, Snakemake, or all processes, at moments drawn over the length of an
undisturbed run. Needs Linux; filling the disk needs the right to mount (it is left out, and said so, where that is
missing).
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "Snakefile",
    "workflows",
    "methods",
    "configs/config.yaml",
    "configs/datasets",
    "data.dvc",
)
STUDY = """
study: faults
title: Digits at three bits
data: {train: digits.train, test: digits.test}
variants:
  float:
    - &float
      method: train_classifier
      epochs: 8
      batch: 32
      network: {architecture: vit, patch: 4, width: 24, depth: 2, heads: 2}
  three-bits: [*float, &three {method: ofq, bits: 3, epochs: 2, batch: 32}]
  annealed: [*float, *three, {method: anneal, epochs: 1, batch: 32}]
  wide:
    - {method: train_classifier, epochs: 8, batch: 32, network: {architecture: fully_connected, width: 64, depth: 2}}
measure: [classification]
seeds: 3
tables: {main: {title: Accuracy, columns: [{metric: accuracy, digits: 4}, {metric: cross_entropy, digits: 6}]}}
figures: {accuracy: {title: Accuracy, kind: bars, y: accuracy}}
claims:
  float:
    text: Rounding costs accuracy.
    source: nowhere
    check: {metric: accuracy, better: [float], than: [three-bits]}
"""
LONGEST = 600


class Project:
    """A copy of the project with one small study."""

    def __init__(self, root: Path):
        self.root = root
        for name in COPIED:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, root / name)
        (root / "profiles").symlink_to("workflows/profiles")
        (root / "configs" / "studies").mkdir()
        (root / "configs" / "studies" / "faults.yaml").write_text(STUDY)

    def start(self) -> subprocess.Popen:
        """`snakemake`, as the leader of a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", "--cores", "2"],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "stderr.txt").open("w"),
            start_new_session=True,
        )

    def finish(self) -> bool:
        """One plain `snakemake`; whether it ended well."""
        return self.start().wait(LONGEST) == 0

    def published(self) -> dict[str, bytes]:
        """What holds no clock time: tables of numbers, figures, and every run's numbers and weights."""
        out = self.root / "results"
        patterns = ("quick/tables/*.csv", "quick/figures/*.svg", "runs/*/*/metrics.json")
        patterns += ("runs/*/*/history.jsonl", "runs/*/*/*.safetensors")
        return {
            path.relative_to(out).as_posix(): path.read_bytes()
            for pattern in patterns
            for path in out.glob(pattern)
        }

    def artifacts(self) -> list[Path]:
        """Every file of a finished run, and the checkpoints of unfinished ones."""
        files = [*self.root.glob("results/runs/*/*/*"), *self.root.glob("work/checkpoints/*/*")]
        return sorted(path for path in files if path.is_file() and not path.name.startswith("."))

    def processes(self) -> dict[str, list[int]]:
        """Of this folder: Snakemake's, and those of jobs."""
        found: dict[str, list[int]] = {"snakemake": [], "job": []}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                here = os.readlink(process / "cwd") == str(self.root)
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if here and b"snakemake" in words:
                found["snakemake"].append(int(process.name))
            elif here and {b"apply", b"evaluate", b"table", b"report", b"base"} & set(words):
                found["job"].append(int(process.name))
        return found

    def clear(self) -> None:
        """Forget all work."""
        for name in ("results", "work", ".snakemake"):
            shutil.rmtree(self.root / name, ignore_errors=True)


def kill(project: Project, running: subprocess.Popen, what: str) -> bool:
    """SIGKILL; whether there was anything to kill."""
    found = project.processes()
    victims = {"everything": found["snakemake"] + found["job"], **found}[what]
    if what == "job" and victims:
        victims = [random.choice(victims)]
    hit = False
    for process in victims:
        try:
            os.kill(process, signal.SIGKILL)
            hit = True
        except ProcessLookupError:
            pass
    if what == "job" and running.poll() is None:
        running.wait(LONGEST)
    if what != "job":
        # Jobs that outlive Snakemake end by themselves; the next one waits for none, so it is waited for here.
        running.wait(LONGEST)
        deadline = time.monotonic() + LONGEST
        while project.processes()["job"] and time.monotonic() < deadline:
            time.sleep(0.05)
    return hit


def kills(project: Project, count: int, seconds: float, truth: dict[str, bytes]) -> dict[str, int]:
    """Kill, start again, kill again; whenever a run came to its end, compare and begin anew."""
    seen = collections.Counter()
    project.clear()
    while sum(seen[w] for w in ("job", "snakemake", "everything")) < count:
        running = project.start()
        what = random.choice(["job", "snakemake", "everything"])
        try:
            running.wait(random.uniform(0.5, seconds))
        except subprocess.TimeoutExpired:
            seen[what] += kill(project, running, what)
        if running.poll() == 0:
            compare(project, truth, seen)
            project.clear()
    seen["not finished by one plain run"] += not project.finish()
    compare(project, truth, seen)
    return seen


def compare(project: Project, truth: dict[str, bytes], seen: collections.Counter) -> None:
    """Count a comparison, and a difference."""
    seen["compared"] += 1
    found = project.published()
    if found != truth:
        seen["DIFFERENT"] += 1
        names = sorted(n for n in found.keys() | truth.keys() if found.get(n) != truth.get(n))
        print("different:", *names[:5], file=sys.stderr)


def cut(path: Path) -> None:
    """Lose the end of a file."""
    body = path.read_bytes()
    path.write_bytes(body[: random.randrange(len(body))] if body else b"")


def flip(path: Path) -> None:
    """One bit."""
    body = bytearray(path.read_bytes())
    if body:
        body[random.randrange(len(body))] ^= 1 << random.randrange(8)
    path.write_bytes(bytes(body))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": cut,
    "flipped": flip,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
}


def damages(project: Project, count: int, truth: dict[str, bytes]) -> dict[str, int]:
    """Damage a file of a finished run, and make unfinished some of what reads it."""
    seen = collections.Counter()
    project.clear()
    seen["not finished by one plain run"] += not project.finish()
    for _ in range(count):
        how = random.choice(list(DAMAGES))
        DAMAGES[how](random.choice(project.artifacts()))
        seen[how] += 1
        # Half of all runs are to be made again, so that damaged ones are read, and all is published anew.
        for run in project.root.glob("results/runs/*/*"):
            if run.parent.name in ("method", "evaluate") and random.random() < 0.5:
                shutil.rmtree(run)
        shutil.rmtree(project.root / "results" / "quick", ignore_errors=True)
        seen["not finished by one plain run"] += not project.finish()
        compare(project, truth, seen)
    return seen


def shuffled_times(project: Project, truth: dict[str, bytes]) -> dict[str, int]:
    """Modification times in random order make nothing again."""
    seen = collections.Counter()
    project.finish()
    before = {p: p.read_bytes() for p in project.root.glob("results/runs/*/*/meta.json")}
    files = [p for p in project.root.rglob("*") if p.is_file() and not p.is_symlink()]
    for path in files:
        stamp = random.uniform(1.6e9, 1.8e9)
        os.utime(path, (stamp, stamp))
    seen["files touched"] = len(files)
    seen["not finished by one plain run"] += not project.finish()
    seen["runs made again"] = sum(path.read_bytes() != body for path, body in before.items())
    compare(project, truth, seen)
    return seen


def two_at_once(project: Project, truth: dict[str, bytes]) -> dict[str, int]:
    """Two snakemakes on one folder: one is refused, the other finishes."""
    seen = collections.Counter()
    project.clear()
    both = [project.start()]
    time.sleep(1.0)
    both.append(project.start())
    ends = [running.wait(LONGEST) for running in both]
    seen["finished"] = sum(end == 0 for end in ends)
    seen["refused"] = sum(end != 0 for end in ends)
    seen["not finished by one plain run"] += not project.finish()
    compare(project, truth, seen)
    return seen


def denied(project: Project, count: int, seconds: float, truth: dict[str, bytes]) -> dict[str, int]:
    """The runs' folders refuse writing for a while (immutable, so that root is refused as well)."""
    seen = collections.Counter()
    place = project.root / "results" / "runs" / "method"
    for _ in range(count):
        project.clear()
        place.mkdir(parents=True)
        if subprocess.run(["chattr", "+i", place], capture_output=True).returncode:
            return {"left out: no right to make a folder immutable": 1}
        running = project.start()
        time.sleep(random.uniform(1.0, seconds))
        subprocess.run(["chattr", "-i", place], check=True)
        ended = running.wait(LONGEST)
        seen["failed and said so" if ended else "finished"] += 1
        seen["not finished by one plain run"] += not project.finish()
        compare(project, truth, seen)
    return seen


def full_disk(project: Project, count: int, truth: dict[str, bytes]) -> dict[str, int]:
    """The results and scratch folders lie on a small file system that fills up, and is then given room."""
    seen = collections.Counter()
    for _ in range(count):
        project.clear()
        disk = project.root / "disk"
        disk.mkdir(exist_ok=True)
        size = random.randrange(40, 1200)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], capture_output=True
        )
        if done.returncode:
            return {"left out: no right to mount": 1}
        try:
            for name in ("results", "work"):
                (disk / name).mkdir()
                (project.root / name).symlink_to(f"disk/{name}")
            ended = project.start().wait(LONGEST)
            seen["filled up and said so" if ended else "had room"] += 1
            subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
            seen["not finished by one plain run"] += not project.finish()
            compare(project, truth, seen)
        finally:
            for name in ("results", "work"):
                (project.root / name).unlink(missing_ok=True)
            subprocess.run(["umount", disk], check=True)
    return seen


def main() -> int:
    """Run all trials and print one table; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--damages", type=int, default=30)
    parser.add_argument("--disks", type=int, default=10)
    parser.add_argument("--denials", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        project = Project(Path(scratch).resolve() / "project")
        if not project.finish():
            print((project.root / "stderr.txt").read_text(), file=sys.stderr)
            return 1
        project.clear()
        start = time.monotonic()
        project.finish()
        seconds = time.monotonic() - start
        truth = project.published()
        print(f"undisturbed: {seconds:.1f} s, {len(truth)} files compared\n")
        print("| fault | trials | what happened |\n|---|--:|---|", flush=True)
        broken = 0
        for name, trial in (
            ("killed", lambda: kills(project, arguments.kills, seconds, truth)),
            ("file damaged", lambda: damages(project, arguments.damages, truth)),
            ("disk full", lambda: full_disk(project, arguments.disks, truth)),
            ("writing denied", lambda: denied(project, arguments.denials, seconds, truth)),
            ("two at once", lambda: two_at_once(project, truth)),
            ("times shuffled", lambda: shuffled_times(project, truth)),
        ):
            seen = dict(trial())
            broken += seen.get("DIFFERENT", 0) + seen.get("not finished by one plain run", 0)
            words = ", ".join(f"{what} {count}" for what, count in seen.items() if count)
            print(f"| {name} | {seen.get('compared', 0)} | {words} |", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

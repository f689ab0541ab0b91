"""A copy of the project with a toy family, so that the workflow's promises can be tried in seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PARAMS = '''
from typing import ClassVar, Literal
from methods.study.registry import MeasureParams, MethodParams, register


@register("methods.toy.work:apply")
class Toy(MethodParams):
    """A toy step."""

    needs_base: ClassVar[bool] = False
    method: Literal["toy"] = "toy"
    size: int = 1
    seconds: float = 0.0
    fail: bool = False


@register("methods.toy.refine:apply")
class Refine(MethodParams):
    """A second toy step."""

    stochastic: ClassVar[bool] = False
    method: Literal["refine"] = "refine"
    by: int = 10


@register("methods.toy.work:measure")
class Height(MeasureParams):
    """A toy measure."""

    measure: Literal["height"] = "height"
'''

WORK = """
import json
import time
from dataclasses import dataclass
from pathlib import Path
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError
from methods.toy.constant import STEP


@dataclass
class Number:
    value: float
    loader = "methods.toy.work:load"

    def save(self, directory):
        (directory / "number.json").write_text(json.dumps(self.value))


def load(directory):
    return Number(json.loads((directory / "number.json").read_text()))


def apply(base, data, params, context):
    if params.fail:
        raise RetrofitError("this toy was told to fail")
    saved = context.checkpoint.load()
    done = saved["state"]["done"] if saved else 0
    values = saved["state"]["values"] if saved else []
    for step in range(done, 10):
        values.append(float(context.numpy(f"step {step}").random()) + STEP * params.size)
        context.record(step=step, value=values[-1])
        if params.seconds:
            import torch  # only here: checkpoints hold tensors

            time.sleep(params.seconds / 10)
            context.checkpoint.save({"unused": torch.zeros(1)}, {"done": step + 1, "values": values})
            while Path("hold").exists():
                time.sleep(0.02)
    return Number(sum(values))


def measure(model, data, params, context):
    return {"height": Metric(model.value, higher_is_better=True)}
"""

REFINE = """
from methods.toy.work import Number


def apply(base, data, params, context):
    return Number(base.value + params.by)
"""

STUDY = """
study: toy
title: A toy
variants:
  small: [{method: toy, size: 1}]
  large: [{method: toy, size: 2}]
  refined: [{method: toy, size: 2}, {method: refine}]
measure: [height]
seeds: 1
tiers: {quick: {}, full: {}, paper: {needs: a GPU with 80 GB}}
tables: {main: {title: Heights, columns: [{metric: height}]}}
claims: {larger: {text: larger is higher, source: nowhere, check: {metric: height, better: [large], than: [small]}}}
"""
RUNS = 6
"""Three method runs (`refined` shares its first step with `large`) and three evaluations."""


class Project:
    """A copy of the project in a folder of its own, driven as a user would."""

    def __init__(self, root: Path):
        self.root = root

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text()
        assert old in text
        self.write(path, text.replace(old, new))

    def start(self, *words: str) -> subprocess.Popen:
        """A command of this interpreter, as the leader of a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, running: subprocess.Popen, ok: bool = True) -> str:
        output, _ = running.communicate(timeout=300)
        assert (running.returncode == 0) is ok, output
        return output

    def snakemake(self, *words: str, ok: bool = True) -> str:
        return self.finish(self.start("snakemake", "--cores", "2", *words), ok)

    def methods(self, *words: str, ok: bool = True) -> str:
        return self.finish(self.start("methods", *words), ok)

    def wait_for(self, pattern: str) -> Path:
        """The first file that matches, once there is one."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if found := sorted(self.root.glob(pattern)):
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"{pattern} did not appear")

    def slow_down(self, seconds: float) -> None:
        """Let the run of `small` take that long, with checkpoints."""
        self.edit(
            "configs/studies/toy.yaml",
            "small: [{method: toy, size: 1}]",
            f"small: [{{method: toy, size: 1, seconds: {seconds}}}]",
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """The slow job stops after its next checkpoint until this ends, however busy the machine is."""
        hold = self.root / "hold"
        hold.touch()
        try:
            yield
        finally:
            hold.unlink()

    def made(self) -> dict[str, int]:
        """When each finished run was made, by `<kind>/<name>`."""
        runs = self.root / "results" / "runs"
        return {
            meta.parent.relative_to(runs).as_posix(): meta.stat().st_mtime_ns
            for meta in runs.glob("*/*/meta.json")
        }

    def changed(self, before: dict[str, int]) -> list[str]:
        """Runs made since, by `<kind>/<slug>`."""
        after = self.made()
        return sorted(name.rpartition("-")[0] for name in after if before.get(name) != after[name])

    def numbers(self) -> dict[str, bytes]:
        """All that was published or recorded and holds no clock time."""
        tables = (self.root / "results" / "quick" / "tables").glob("*.csv")
        runs = self.root / "results" / "runs"
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in [*tables, *runs.glob("*/*/history.jsonl"), *runs.glob("*/*/metrics.json")]
        }


@pytest.fixture(scope="session")
def skeleton(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("skeleton")
    for name in ("Snakefile", "workflows", "methods"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / name)
    (root / "profiles").symlink_to("workflows/profiles")
    project = Project(root)
    project.write("configs/config.yaml", (ROOT / "configs" / "config.yaml").read_text())
    project.write("configs/studies/toy.yaml", STUDY)
    project.write("methods/toy/__init__.py", "")
    project.write("methods/toy/params.py", PARAMS)
    project.write("methods/toy/work.py", WORK)
    project.write("methods/toy/refine.py", REFINE)
    project.write("methods/toy/constant.py", "STEP = 3\n")
    return root


@pytest.fixture(scope="session")
def finished(skeleton, tmp_path_factory) -> Path:
    """The toy project after one run of everything."""
    root = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(skeleton, root, symlinks=True)
    Project(root).snakemake()
    return root


@pytest.fixture
def project(finished, tmp_path) -> Project:
    """A finished copy to do things to."""
    shutil.copytree(finished, tmp_path / "finished", symlinks=True)
    return Project(tmp_path / "finished")


@pytest.fixture
def fresh(skeleton, tmp_path) -> Project:
    """A copy in which nothing has run."""
    shutil.copytree(skeleton, tmp_path / "fresh", symlinks=True)
    return Project(tmp_path / "fresh")

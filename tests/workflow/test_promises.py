"""What the workflow promises, each tried with real Snakemake on a toy study."""

import os
import random
import shutil
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.workflow
NOTHING = "Nothing to be done"


def changed(project, before):
    after = project.made()
    return {name for name in after if before.get(name) != after[name]}


def test_a_second_call_does_nothing(project):
    before = project.made()
    assert len([name for name in before if name.startswith("method/")]) == 6
    assert NOTHING in project.snakemake()
    assert changed(project, before) == set()


def test_a_fresh_clone_with_the_results_has_nothing_to_do(project):
    shutil.rmtree(project.root / ".snakemake")
    shutil.rmtree(project.root / "work")
    assert NOTHING in project.snakemake()


def test_shuffled_file_times_change_nothing(project):
    files = [
        path
        for path in project.root.rglob("*")
        if path.is_file() and ".snakemake" not in path.parts
    ]
    times = [1_600_000_000 + 60 * n for n in range(len(files))]
    random.Random(0).shuffle(times)
    for path, stamp in zip(files, times, strict=True):
        os.utime(path, (stamp, stamp))
    assert NOTHING in project.snakemake()


def test_a_parameter_reruns_only_its_runs(project):
    before = project.made()
    project.edit("configs/studies/toy.yaml", "size: 1", "size: 5")
    project.snakemake()
    new = changed(project, before)
    assert {name.split("-")[0] for name in new} == {"method/toy", "evaluate/toy.height"}
    assert len(new) == 4


def test_a_seed_adds_only_its_runs(project):
    before = project.made()
    project.edit("configs/studies/toy.yaml", "seeds: 2", "seeds: 3")
    project.snakemake()
    assert len(changed(project, before)) == 6


def test_an_edited_module_reruns_only_its_users(project):
    before = project.made()
    project.edit("methods/toy/refine.py", "base.value + params.by", "base.value + params.by + 1")
    project.snakemake()
    assert {name.split("-")[0] for name in changed(project, before)} == {
        "method/toy.refine",
        "evaluate/toy.refine.height",
    }


def test_an_edit_in_an_imported_module_is_seen_and_verify_says_so(project):
    project.edit("methods/toy/constant.py", "STEP = 3", "STEP = 4")
    assert "STALE" in project.methods("verify", "toy", "--tier", "quick", ok=False)
    before = project.made()
    project.snakemake()
    assert len([name for name in changed(project, before) if name.startswith("method/")]) == 6
    assert "STALE" not in project.methods("verify", "toy", "--tier", "quick")


def test_comments_and_docstrings_change_nothing(project):
    project.edit("methods/toy/constant.py", "STEP = 3", '"""Why three."""\n\n# because\nSTEP = 3')
    assert NOTHING in project.snakemake()


def test_edited_tables_are_rendered_again_without_a_run(project):
    before, tables = project.made(), project.tables()
    project.write("results/quick/tables/toy.md", "tampered")
    project.snakemake()
    assert project.tables() == tables
    assert changed(project, before) == set()


def test_tables_do_not_depend_on_cores_or_order(project, fresh):
    fresh.snakemake("--cores", "1")
    assert fresh.tables() == project.tables()


def test_a_killed_run_resumes_to_the_same_bits(fresh, tmp_path):
    fresh.edit(
        "configs/studies/toy.yaml",
        "small: [{method: toy, size: 1}]",
        "small: [{method: toy, size: 1, seconds: 4}]",
    )
    other = tmp_path / "other"
    shutil.copytree(fresh.root, other, symlinks=True)
    undisturbed = type(fresh)(other)
    running = subprocess.Popen(
        fresh.command(),
        cwd=fresh.root,
        env=fresh.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while not list(fresh.root.glob("work/checkpoints/*/checkpoint.safetensors")):
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    for path in fresh.root.glob("results/runs/*/*/meta.json"):
        assert path.stat().st_size > 0
    fresh.snakemake()
    undisturbed.snakemake()
    assert fresh.tables() == undisturbed.tables()
    histories = [
        sorted(p.read_bytes() for p in root.glob("results/runs/*/*/history.jsonl"))
        for root in (fresh.root, other)
    ]
    assert histories[0] == histories[1]


def test_a_failing_job_leaves_nothing_half_written_and_the_others_finish(fresh):
    fresh.edit(
        "configs/studies/toy.yaml",
        "small: [{method: toy, size: 1}]",
        "small: [{method: toy, fail: true}]",
    )
    output = fresh.snakemake(ok=False)
    assert "this toy was told to fail" in output
    assert "Traceback" not in output
    assert len([name for name in fresh.made() if name.startswith("evaluate/")]) == 4
    assert not list(fresh.root.glob("results/runs/*/.aside*"))
    fresh.edit("configs/studies/toy.yaml", "fail: true", "size: 1")
    before = fresh.made()
    fresh.snakemake()
    assert all(fresh.made()[name] == when for name, when in before.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "tier=qick"], "tier 'qick' does not exist; did you mean 'quick'?"),
        (["--config", "study=toi"], "there is no study 'toi'"),
        (["--config", "study=absent.yaml"], "there is no study file absent.yaml"),
    ],
)
def test_wrong_words_get_one_sentence(fresh, words, message):
    output = fresh.snakemake(*words, ok=False)
    assert message in output
    assert "Traceback" not in output


def test_wrong_yaml_stops_before_any_job(fresh):
    fresh.edit("configs/studies/toy.yaml", "size: 2}]\n  refined", "sise: 2}]\n  refined")
    output = fresh.snakemake(ok=False)
    assert "toy.yaml:6" in output
    assert "unknown key 'sise'; did you mean 'size'?" in output
    assert fresh.made() == {}


def test_the_paper_tier_plans_and_says_what_is_missing(fresh):
    if any(name.startswith("nvidia") for name in os.listdir("/dev")):
        pytest.skip("this machine has the GPU that the tier needs")
    assert "table" in fresh.snakemake("-n", "--config", "tier=paper")
    output = fresh.snakemake("--config", "tier=paper", ok=False)
    assert "tier paper needs a GPU with 80 GB" in output
    assert fresh.made() == {}

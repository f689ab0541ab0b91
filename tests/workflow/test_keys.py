"""What is made again and what is not, each tried with real Snakemake on a toy study."""

import os
import random
import re
import shutil

import pytest

from tests.workflow.conftest import RUNS

pytestmark = pytest.mark.workflow
NOTHING = "Nothing to be done"


def jobs(output: str) -> dict[str, int]:
    """Rule → number of jobs, as a dry run's table of job statistics lists them."""
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}


def test_everything_is_made_once_and_the_last_lines_say_where_it_is(project):
    assert len(project.made()) == RUNS
    output = project.snakemake()
    assert NOTHING in output
    *_, tables, claims, report = output.splitlines()
    for line, name in ((tables, "Tables"), (claims, "Claims"), (report, "Report")):
        label, path = line.split()
        assert label == name
        assert (project.root / path).exists()


def test_a_fresh_clone_with_the_runs_has_nothing_to_do_whatever_the_file_times(project):
    shutil.rmtree(project.root / ".snakemake")
    shutil.rmtree(project.root / "work")
    files = [path for path in project.root.rglob("*") if path.is_file()]
    times = [1_600_000_000 + 60 * n for n in range(len(files))]
    random.Random(0).shuffle(times)
    for path, stamp in zip(files, times, strict=True):
        os.utime(path, (stamp, stamp))
    assert NOTHING in project.snakemake()


def test_a_moved_results_folder_has_nothing_to_do(project):
    shutil.move(project.root / "results" / "runs", project.root / "elsewhere" / "runs")
    planned = jobs(project.snakemake("-n", "--config", "results=elsewhere", "work=other"))
    assert not planned.keys() & {"data", "base", "apply", "evaluate"}


def test_a_parameter_reruns_only_its_runs(project):
    before = project.made()
    project.edit("configs/studies/toy.yaml", "size: 1", "size: 5")
    project.snakemake()
    assert project.changed(before) == ["evaluate/toy.height", "method/toy"]


def test_a_seed_adds_only_its_runs(project):
    before = project.made()
    project.edit("configs/studies/toy.yaml", "seeds: 1", "seeds: 2")
    project.snakemake()
    assert len(project.changed(before)) == RUNS
    assert all(project.made()[name] == when for name, when in before.items())


def test_a_dropped_variant_changes_the_table_only_and_comes_back_for_free(project):
    before, published = project.made(), project.numbers()
    project.edit("configs/studies/toy.yaml", "  refined:", "  # refined:")
    project.snakemake()
    assert "refined" not in (project.root / "results/quick/tables/toy.md").read_text()
    project.edit("configs/studies/toy.yaml", "  # refined:", "  refined:")
    project.snakemake()
    assert project.changed(before) == []
    assert project.numbers() == published


def test_an_edited_module_reruns_only_its_users(project):
    before = project.made()
    project.edit("methods/toy/refine.py", "base.value + params.by", "base.value + params.by + 1")
    project.snakemake()
    assert project.changed(before) == ["evaluate/toy.refine.height", "method/toy.refine"]


def test_an_edit_in_an_imported_module_is_seen_and_verify_says_so(project):
    assert "STALE" not in project.methods("verify", "toy", "--tier", "quick")
    project.edit("methods/toy/constant.py", "STEP = 3", "STEP = 4")
    assert "STALE" in project.methods("verify", "toy", "--tier", "quick", ok=False)
    assert jobs(project.snakemake("-n"))["apply"] == 3


def test_comments_and_docstrings_change_nothing(project):
    project.edit("methods/toy/constant.py", "STEP = 3", '"""Why three."""\n\n# because\nSTEP = 3')
    assert NOTHING in project.snakemake()


def test_edited_tables_are_rendered_again_without_a_run(project):
    before = project.made()
    table = project.root / "results" / "quick" / "tables" / "toy.md"
    text = table.read_text()
    table.write_text("tampered")
    project.snakemake()
    assert table.read_text() == text
    assert project.changed(before) == []


def test_numbers_do_not_depend_on_cores_order_or_forking(project, fresh, monkeypatch):
    monkeypatch.setenv("RETROFIT_SERVER", "off")
    fresh.snakemake("--cores", "1")
    assert fresh.numbers() == project.numbers()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tables/toy.md", "| small | ", "| small | 1"),
        ("tables/toy.csv", "small", "large"),
        ("tables/toy.json", '"label": "small"', '"label": "tiny"'),
        ("claims.md", "reproduced", "re-produced"),
        ("metrics.json", '"height": ', '"height": 1'),
        ("report/index.html", "larger is higher", "larger is lower"),
    ],
)
def test_verify_reads_what_is_published(project, file, old, new):
    assert "STALE" not in project.methods("verify", "--tier", "quick")
    project.edit(f"results/quick/{file}", old, new)
    assert "STALE" in project.methods("verify", "--tier", "quick", ok=False)


def test_an_edited_measurement_goes_into_no_table(project):
    metrics = next(project.root.glob("results/runs/evaluate/toy.height-*/metrics.json"))
    metrics.write_text(metrics.read_text().replace("1", "2"))
    before = {**project.numbers()}
    (project.root / "results/quick/tables/toy.md").unlink()
    output = project.snakemake()
    assert f"{metrics.relative_to(project.root)} is damaged: sha256" in output
    after = project.numbers()
    assert [name for name in after if after[name] != before[name]] == [
        metrics.relative_to(project.root).as_posix()
    ]


def test_a_study_elsewhere_is_called_by_its_file_and_stays_on_the_front_page(project):
    study = (project.root / "configs/studies/toy.yaml").read_text()
    project.write("by-me.yaml", study.replace("study: toy", "study: mine").replace("A toy", "Mine"))
    before = project.made()
    project.snakemake("--config", "study=by-me.yaml")
    assert project.changed(before) == []  # the same runs under another name
    explained = project.methods("explain", "by-me.yaml", "small", "height", "--tier", "quick")
    assert explained.startswith("mine (quick): small, height")
    assert "study=by-me.yaml" in (project.root / "results/quick/tables/mine.md").read_text()
    assert "STALE" not in project.methods("verify", "by-me.yaml", "--tier", "quick")
    project.edit("configs/studies/toy.yaml", "title: A toy", "title: Another toy")
    project.snakemake()
    claims = (project.root / "results/quick/claims.md").read_text()
    assert "Another toy" in claims
    assert "Mine" in claims


def test_rekey_keeps_runs_whose_numbers_stayed_and_no_others(project):
    project.snakemake("--config", "tier=full")
    table = project.root / "results" / "quick" / "tables" / "toy.json"
    project.write("results/expected/toy.quick.json", table.read_text())
    project.edit("methods/toy/constant.py", "STEP = 3", "STEP = 2 + 1")
    assert "only code moved" in project.methods("verify", ok=False)
    project.snakemake()
    assert "workflows/rekeyed.json: review and commit it" in project.methods("rekey")
    assert "STALE" not in project.methods("verify")
    assert "apply" not in jobs(project.snakemake("-n", "--config", "tier=full"))
    project.edit("methods/toy/constant.py", "STEP = 2 + 1", "STEP = 4")
    project.snakemake()
    assert "the quick numbers of toy moved" in project.methods("rekey", ok=False)
    assert "STALE" in project.methods("verify", ok=False)

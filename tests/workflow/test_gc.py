"""`gc` on a finished toy project: shows, asks, and deletes nothing that a study asks for."""

import pytest

pytestmark = pytest.mark.workflow


def test_only_what_no_study_asks_for_goes(project):
    assert "nothing to delete" in project.methods("gc", "--yes")
    project.edit("configs/studies/toy.yaml", "size: 1", "size: 5")
    project.snakemake()
    before = project.made()
    checkpoint = project.root / "work/checkpoints/0123456789ab"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.safetensors").write_bytes(b"x" * 10)
    output = project.methods("gc", ok=False)
    assert "add --yes" in output
    assert project.made() == before
    output = project.methods("gc", "--yes")
    assert "no study asks for it" in output
    assert not checkpoint.exists()
    gone = {name.rpartition("-")[0] for name in before if name not in project.made()}
    assert gone == {"method/toy", "evaluate/toy.height"}
    assert len(before) - len(project.made()) == 2
    assert "Nothing to be done" in project.snakemake()


def test_runs_of_a_published_study_elsewhere_stay(project):
    study = (project.root / "configs/studies/toy.yaml").read_text()
    project.write(
        "by-me.yaml", study.replace("study: toy", "study: mine").replace("size: 1", "size: 9")
    )
    project.snakemake("--config", "study=by-me.yaml")
    assert "nothing to delete" in project.methods("gc", "--yes")
    (project.root / "results/quick/tables/mine.json").unlink()
    assert "nothing to delete" in project.methods("gc", "by-me.yaml", "--yes")
    assert "deleted" in project.methods("gc", "--yes")


def test_runs_behind_published_tables_stay_when_code_has_moved(project):
    project.edit("methods/toy/constant.py", "3", "4")
    assert "nothing to delete" in project.methods("gc", "--yes")


def test_a_study_that_cannot_be_read_stops_it(project):
    project.write("configs/studies/broken.yaml", "study: broken\nvariants: {")
    before = project.made()
    assert "broken.yaml" in project.methods("gc", "--yes", ok=False)
    assert project.made() == before

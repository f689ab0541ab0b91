"""Finished runs that were damaged afterwards: found before they are used, set aside and made again to the same bits."""

import pytest

pytestmark = pytest.mark.workflow


def flip(path):
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(bytes(body))


def cut(path):
    body = path.read_bytes()
    path.write_bytes(body[: len(body) // 2])


def one(project, pattern):
    return sorted(project.root.glob(f"results/runs/{pattern}"))[0]


@pytest.mark.parametrize("file", ["meta.json", "number.json", "history.jsonl"])
def test_a_cut_file_is_made_again_by_the_next_snakemake(project, file):
    before = project.numbers()
    run = (
        one(project, "method/toy.refine-*")
        if file == "number.json"
        else one(project, "method/toy-*")
    )
    cut(run / file)
    output = project.snakemake()
    assert f"{run.relative_to(project.root) / file}" in output
    assert "made again" in output
    assert project.numbers() == before
    (aside,) = (project.root / "results" / "damaged").iterdir()
    assert aside.name == f"{run.name}.1"
    assert "Nothing to be done" in project.snakemake()


def test_a_flipped_bit_is_found_where_the_file_is_read(project):
    before = project.numbers()
    (started,) = {
        one.parent
        for one in project.root.glob("results/runs/method/toy-*/number.json")
        if '"size": 2' in (one.parent / "meta.json").read_text()
    }
    flip(started / "number.json")
    assert "Nothing to be done" in project.snakemake()  # nothing reads it
    refined = one(project, "method/toy.refine-*")
    for file in refined.iterdir():
        file.unlink()
    output = project.snakemake()
    assert "number.json is damaged: sha256" in output
    assert project.numbers() == before


def test_flipped_metrics_never_reach_a_table(project):
    before = project.numbers()
    flip(one(project, "evaluate/toy.height-*") / "metrics.json")
    (project.root / "results" / "quick" / "tables" / "toy.csv").unlink()
    output = project.snakemake()
    assert "metrics.json is damaged: sha256" in output
    assert project.numbers() == before


def test_a_dry_run_moves_nothing(project):
    run = one(project, "method/toy-*")
    cut(run / "meta.json")
    project.snakemake("-n")
    assert run.is_dir()
    assert not (project.root / "results" / "damaged").exists()


def test_a_damaged_specification_is_written_anew(project):
    before = project.numbers()
    for spec in project.root.glob("work/specs/*.json"):
        cut(spec)
    for meta in project.root.glob("results/runs/evaluate/*/meta.json"):
        meta.unlink()
    project.snakemake()
    assert project.numbers() == before

"""Wrong words get one sentence, before anything runs."""

import os

import pytest

pytestmark = pytest.mark.workflow


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tier=qick", "tier 'qick' does not exist; did you mean 'quick'?"),
        ("teir=full", "unknown setting 'teir'; did you mean 'tier'?"),
        ("study=toi", "there is no study 'toi'"),
        ("study=absent.yaml", "there is no study file absent.yaml"),
        ("study=[toy, again.yaml]", "are both called 'toy'"),
    ],
)
def test_wrong_settings(fresh, setting, message):
    fresh.write("again.yaml", (fresh.root / "configs/studies/toy.yaml").read_text())
    output = fresh.snakemake("--config", setting, ok=False)
    assert message in output
    assert output.splitlines()[-1].startswith("error: ")
    assert fresh.made() == {}


def test_wrong_yaml_stops_before_any_job(fresh):
    fresh.edit("configs/studies/toy.yaml", "size: 2}]\n  refined", "sise: 2}]\n  refined")
    output = fresh.snakemake(ok=False)
    assert "toy.yaml:6" in output
    assert "unknown key 'sise'; did you mean 'size'?" in output
    assert "Traceback" not in output
    assert fresh.made() == {}


def test_the_paper_tier_plans_and_says_what_is_missing(fresh):
    assert "table" in fresh.snakemake("-n", "--config", "tier=paper")
    if any(name.startswith("nvidia") for name in os.listdir("/dev")):
        pytest.skip("this machine has the GPU that the tier needs")
    output = fresh.snakemake("--config", "tier=paper", ok=False)
    assert output.splitlines()[-1].endswith("tier paper needs a GPU with 80 GB")
    assert fresh.made() == {}


def test_a_job_that_asks_for_a_gpu_is_refused_where_there_is_none(fresh):
    fresh.edit(
        "methods/toy/params.py", "fail: bool = False", "fail: bool = False\n    gpus: int = 1"
    )
    output = fresh.snakemake(ok=False)
    assert "gpu" in output.lower()
    assert fresh.made() == {}

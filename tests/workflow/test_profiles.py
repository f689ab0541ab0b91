"""Every profile is read by Snakemake itself and plans the toy study."""

import importlib.util
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.workflow
PROFILES = Path(__file__).resolve().parents[2] / "workflows" / "profiles"
NEEDS = {"slurm": "snakemake_executor_plugin_slurm"}


@pytest.mark.parametrize("name", sorted(path.name for path in PROFILES.iterdir()))
def test_profile_plans(fresh, name):
    plugin = NEEDS.get(name)
    if plugin and importlib.util.find_spec(plugin) is None:
        pytest.skip(f"needs {plugin}: pip install -e '.[{name}]'")
    output = fresh.snakemake("-n", "--workflow-profile", f"workflows/profiles/{name}")
    assert "This was a dry-run" in output


@pytest.mark.parametrize(
    "path", sorted(PROFILES.glob("*/profile.yaml")), ids=lambda p: p.parent.name
)
def test_profiles_leave_reruns_to_the_keys(path):
    profile = yaml.safe_load(path.read_text())
    assert profile["rerun-triggers"] == ["mtime"]
    assert profile["scheduler"] == "greedy"
    assert profile["nolock"] is True
    assert profile["ignore-incomplete"] is True


def test_the_kubernetes_job_runs_its_profile():
    job = yaml.safe_load((PROFILES / "kubernetes" / "job.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "--workflow-profile=workflows/profiles/kubernetes" in container["args"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}

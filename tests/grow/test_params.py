"""What a study may say about growth, and what is refused before any job starts."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from methods.grow.params import FromScratch, MixtureGrowth, MixtureMembers, Widen
from methods.study.errors import RetrofitError
from methods.study.registry import find

WIDE = {"architecture": "wide_residual"}


@pytest.mark.parametrize("name", ["from_scratch", "mixture_members", "mixture_growth", "widen"])
def test_methods_are_registered_and_load(name):
    entry = find("method", name)
    assert entry.params().method == name
    assert callable(entry.load())


def test_defaults_are_the_papers():
    members, growth = MixtureMembers(), MixtureGrowth()
    assert (members.network.width, members.network.blocks, members.network.stem) == (160, 4, 16)
    assert (members.epochs, members.templates, members.sets) == (200, 2, [0, 1, 0, 1])
    assert (members.learning_rate, members.weight_decay, members.cutout) == (0.1, 5e-4, 16)
    assert (growth.epochs, growth.cycles, growth.cycle_decay) == (40, 4, 0.5)
    assert (growth.learning_rate, growth.final_rate, growth.policy) == (1e-4, 3e-5, "orthogonal")
    assert MixtureGrowth.needs_base
    assert not MixtureMembers.needs_base


def test_planning_needs_no_torch():
    code = "import sys, methods.grow.params; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("params", "changes", "reason"),
    [
        (MixtureMembers, {"network": {**WIDE, "width": 7}}, r"network\.width 7 is odd"),
        (MixtureMembers, {"network": {**WIDE, "stem": 3}}, r"network\.stem 3 is odd"),
        (MixtureMembers, {"sets": [0, 0, 1, 1]}, "training the second would change the first"),
        (MixtureMembers, {"sets": [0, 2, 0, 2]}, "without gaps"),
        (MixtureMembers, {"sets": [0, 1, 0]}, "at least 4 items"),
        (MixtureMembers, {"templates": 0}, "a positive number"),
        (MixtureMembers, {"templates": [2, 2, 2]}, "one for each of the 2 sets"),
        (
            MixtureMembers,
            {"templates": [4, 3], "initialisation": "published_code"},
            "needs equally many templates",
        ),
        (MixtureMembers, {"network": {"architecture": "vit"}}, "wide_residual"),
        (MixtureGrowth, {"polcy": "zero"}, "did you mean 'policy'"),
        (MixtureGrowth, {"policy": "orthognal"}, "orthogonal"),
        (MixtureGrowth, {"epochs": 3}, "4 cycles do not fit into 3 epochs"),
        (Widen, {"final_rate": 1.0}, "above learning_rate"),
        (Widen, {"rule": "net2wider"}, "net2net"),
        (FromScratch, {"size": "small", "network": {**WIDE, "width": 7}}, "odd and has no half"),
        (FromScratch, {"epochs": 0}, "greater than or equal to 1"),
    ],
)
def test_refused_with_a_reason(params, changes, reason):
    with pytest.raises(ValidationError, match=reason):
        params.model_validate(changes)


def test_bases_that_cannot_grow_are_refused_when_planning():
    with pytest.raises(RetrofitError, match="joins what mixture_members leaves"):
        MixtureGrowth().check_base({"architecture": "residual", "notes": {}})
    MixtureGrowth().check_base({"architecture": "residual", "notes": {"mixture": {"sets": []}}})
    with pytest.raises(RetrofitError, match="no width of 'vit'; allowed: wide_residual"):
        Widen().check_base({"architecture": "vit"})
    Widen().check_base({"architecture": "residual"})

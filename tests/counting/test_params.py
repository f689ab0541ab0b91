"""What a study may say, and how the rest is refused when planning."""

import pytest
from pydantic import ValidationError

from methods.counting.params import DensityCounting, DensityMaps, HMoDESizes, Loss
from methods.study.expansion import plan


def test_the_defaults_are_the_papers():
    maps, run = DensityMaps(), DensityCounting()
    assert (maps.kernel, maps.sigma, maps.size, maps.border) == ("fixed", 4.0, 15, "renormalise")
    assert (run.learning_rate, run.epochs, run.milestones, run.factor) == (2e-5, 200, [100], 0.5)
    assert (run.batch, run.crop, run.scale) == (1, None, 100.0)
    assert (run.network.width, run.network.second_gate) == (64, 2048)
    assert (run.loss.patch, run.loss.hardest, run.loss.relative) == (16, 9, 1.0)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (DensityMaps, {"size": 14}, "size 14 is even"),
        (DensityMaps, {"sigma": 0}, "greater than 0"),
        (DensityMaps, {"sigmas": 3}, "did you mean 'sigma'"),
        (HMoDESizes, {"second_gate": 20}, "no multiple of 8"),
        (HMoDESizes, {"frozen": True}, "belongs to the backbone efficientnet_lite"),
        (Loss, {"hardest": 8}, "no multiple of three"),
        (DensityCounting, {"batch": 4}, "whole images differ in size"),
        (DensityCounting, {"crop": 32}, "a crop of 32 has 4 patches of 16 pixels"),
        (DensityCounting, {"crop": 8}, "greater than or equal to 16"),
        (DensityCounting, {"epochs": 50}, r"milestones \[100\]"),
        (DensityCounting, {"epochs": 90, "milestones": []}, "check_from 100 is not before epochs"),
        (
            DensityCounting,
            {"weights": {"file": "x.pth"}, "network": {"architecture": "csrnet", "width": 8}},
            "VGG16 of width 64",
        ),
        (DensityCounting, {"network": {"architecture": "mccn"}}, "mcnn"),
    ],
)
def test_refused_with_a_reason(kind, settings, message):
    with pytest.raises(ValidationError, match=message):
        kind(**settings)


@pytest.mark.parametrize("tier", ["quick", "full", "paper"])
def test_every_tier_of_the_study_can_be_planned_and_maps_are_made_once(tier):
    found = plan("configs/studies/hmode.yaml", tier, without={})
    runs = [run for run in found.runs().values() if run.kind == "method"]
    maps = [run for run in runs if run.spec["params"]["method"].startswith("density_maps")]
    trained = [run for run in runs if run.spec["params"]["method"] == "density_counting"]
    assert all(run.seed is None for run in maps)
    settings = {cell.setting for cell in found.cells}
    # one for each kernel, and in one setting one beside the base
    assert len(maps) <= len(settings) + 2
    assert len(maps) < len(trained)

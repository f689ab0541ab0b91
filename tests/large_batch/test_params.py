"""What a study may say about large-batch training."""

import pytest
from pydantic import ValidationError

from methods.large_batch.params import LargeBatch
from methods.models.networks.params import ResidualSizes


def test_the_defaults_are_the_papers_small_batch_run_of_f1():
    params = LargeBatch()
    assert (params.small_batch, params.learning_rate, params.epochs) == (128, 0.1, 50)
    assert params.milestones == [10, 20, 30]
    assert params.network.width == 512
    assert not params.repo_momentum_reset
    assert params.clip_norm == 5


def test_networks_are_told_apart_by_architecture():
    params = LargeBatch.model_validate({"network": {"architecture": "residual", "width": 8}})
    assert params.network == ResidualSizes(width=8)
    again = LargeBatch.model_validate(params.model_dump())
    assert again == params


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"milestones": [5, 3]}, "must ascend"),
        ({"milestones": [60]}, r"lie between 0 and epochs \(50\)"),
        ({"small_batch": 64, "ghost_size": 128}, "allowed are 1 to 64, 'small', or null"),
        ({"small_batch": 64, "large_batch": 32}, "32 is smaller than small_batch 64"),
        ({"noise": -1.0}, "variance"),
        ({"noise": "some"}, "matching"),
        ({"lr_rule": "cubic"}, "sqrt"),
        ({"gost_size": 4}, "did you mean 'ghost_size'"),
        ({"network": {"architecture": "vgg"}}, "residual"),
        ({"epochs": "5"}, "valid integer"),
    ],
)
def test_nonsense_is_refused_with_what_is_allowed(values, message):
    with pytest.raises(ValidationError, match=message):
        LargeBatch.model_validate(values)

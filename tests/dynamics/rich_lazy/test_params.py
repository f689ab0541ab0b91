"""What a study may say, and how it is told what it may not."""

import pytest
from pydantic import ValidationError

from methods.dynamics.rich_lazy.memory import SHAPES, Budget, Shape, kernel, training
from methods.dynamics.rich_lazy.params import RichLazy, RichLazyLinear
from methods.study.errors import RetrofitError


def test_the_defaults_are_the_published_settings():
    p = RichLazy()
    assert (p.size, p.gain, p.alpha, p.iterations, p.batch) == (300, 1.25, 1.0, 10_000, 32)
    assert (p.learning_rate, p.momentum, p.probe_batches) == (0.003, 0.9, 10)
    assert RichLazy(ranks=[1, "tenth", "third", "full"]).numbers == [1, 30, 100, 300]


def test_arms_are_named_by_what_was_asked_for():
    assert RichLazy(ranks=[1, "full"]).arms == ["rank-1", "full"]
    assert RichLazy(structure="dale", nulls=["shuffled"]).arms == ["own", "shuffled"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"ranks": [1, 301]},
            "ranks: 301 is larger than the network of 300 units; allowed are 1 to",
        ),
        ({"ranks": [4, 2]}, "rising"),
        ({"ranks": [30, "tenth"]}, r"for size 300 \[30, 30\]: at least one, rising, none twice"),
        ({"ranks": []}, "at least one"),
        ({"ranks": [0]}, "greater than or equal to 1"),
        ({"ranks": [1], "structure": "dale", "nulls": ["gaussian"]}, "one or the other"),
        ({"nulls": ["gaussian"]}, "gaussian is itself the null"),
        ({"structure": "chain", "tau": 0}, "a correlation that is not 0"),
        ({"structure": "chain", "tau": 0.7}, "less than or equal to 0.5"),
        ({"structure": "dael"}, "'gaussian', 'dale', 'cell_types', 'chain' or 'connectome'"),
        ({"kernel_samples": 321}, "321 are more than the 320 fixed inputs"),
        ({"size": 20_000, "ranks": ["full"]}, r"size 20000: one replicate .* up to \d+ would fit"),
        ({"memory": 0.02, "kernel_samples": 320}, r"kernel_samples 320: .* up to \d+ would fit"),
    ],
)
def test_contradictions_are_refused_when_planning(values, message):
    with pytest.raises(ValidationError, match=message):
        RichLazy(**values)


def test_the_linear_network_has_no_more_ranks_than_its_layers():
    with pytest.raises(
        ValidationError, match="10 inputs and 4 hidden units have; allowed are 1 to 4"
    ):
        RichLazyLinear(hidden=4)
    with pytest.raises(ValidationError, match="rising"):
        RichLazyLinear(ranks=[2, 1])


def test_the_size_that_would_fit_does_and_one_more_does_not():
    shape = SHAPES["context"]
    budget = Budget(1.0, 9000, 4, 32, 320, 32, shape)
    with pytest.raises(RetrofitError) as refused:
        budget.check()
    fits = int(str(refused.value).split("up to ")[1].split(" ")[0])
    assert budget.replicate(fits) <= 2**30 < budget.replicate(fits + 1)


def test_memory_does_not_grow_with_replicates():
    budget = RichLazy(ranks=[1, "full"], replicates=10**6, memory=0.1).budget(SHAPES["context"])
    at_once = budget.replicates_at_once(10**6)
    needed = at_once * 2 * training(300, 32, budget.shape)
    assert 0.5 * budget.bytes < needed <= budget.bytes


def test_the_kernel_is_counted_with_its_smallest_block():
    shape = Shape(steps=3, inputs=2, outputs=5, read=1)
    # Two steps have a state before them, with one read step of five outputs each.
    assert kernel(7, 4, shape) == 4 * (3 * (2 * 5 * 4 * 7 + 5 * 20) + 5 * 20)

"""Decisions, sizes and spaces."""

import numpy as np
import pytest

from methods.search.choices import Choice, Part, Product, Space, genotype, read_genotype, size_in
from methods.study.errors import RetrofitError

WIDTH, KERNEL = Choice("width", (4, 8)), Choice("kernel", (3, 5, 7))
SPACE = Space.of([WIDTH, KERNEL, WIDTH])


def test_a_space_lists_every_architecture_once_and_in_order():
    everything = list(SPACE)
    assert SPACE.size == len(everything) == 6
    assert everything[1] == {"width": 4, "kernel": 5}
    assert len({genotype(a) for a in everything}) == 6
    assert [SPACE.at(SPACE.indices(a)) for a in everything] == everything
    assert SPACE.largest() == {"width": 8, "kernel": 7}


def test_a_genotype_reads_back():
    ops = Space.of([Choice("edge", ("sep3", "dil5")), Choice("ratio", (2, 3.5))])
    for space in (SPACE, ops):
        for architecture in space:
            assert read_genotype(genotype(architecture), space) == architecture


def test_random_architectures_are_uniform():
    generator = np.random.default_rng(0)
    drawn = [genotype(SPACE.random(generator)) for _ in range(600)]
    counts = np.unique(drawn, return_counts=True)[1]
    assert len(counts) == 6
    assert counts.min() > 60


def test_sizes_follow_from_an_architecture():
    ratio = Choice("ratio", (2, 3.5))
    assert size_in(WIDTH * ratio, {"width": 8, "ratio": 3.5}) == 28
    part = Part.of(Choice("edge", ("sep5", "dil3", "sep3")), {"sep3": 3, "sep5": 5})
    assert size_in(part, {"edge": "sep5"}) == 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Space.of([]), "search space is empty"),
        (lambda: Choice("width", ()), "'width' has no options: nothing to search"),
        (lambda: Choice("width", (4, 4)), "has an option twice"),
        (lambda: Space.of([WIDTH, Choice("width", (4, 16))]), "two choices are called 'width'"),
        (lambda: Product((Choice("e", (3,)), Choice("r", (2.5,)))), "is no whole number"),
        (lambda: Part.of(WIDTH, {6: 3}), "allowed: 4, 8"),
        (lambda: SPACE.check({"width": 4}), "decides nothing for kernel"),
        (lambda: SPACE.check({"width": 4, "kernel": 4}), "allowed: 3, 5, 7"),
        (lambda: SPACE.check({"widht": 4}), "did you mean 'width'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(make, words):
    with pytest.raises(RetrofitError, match=words):
        make()

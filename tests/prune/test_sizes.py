"""Widths and ranks against the published code and the equations; sparsities that cannot be."""

import math

import pytest

from methods.prune import sizes
from methods.study.errors import RetrofitError
from tests.prune.golden import WIDTHS

ROWS = [(float(s), *map(int, rest)) for s, *rest in WIDTHS["widths"]]


@pytest.mark.parametrize(("s", "f_in", "f_out", "both", "only_u", "doped", "k", "width"), ROWS)
def test_sizes_are_the_published_ones(s, f_in, f_out, both, only_u, doped, k, width):
    assert sizes.factorized_rank(s, 9 * f_in, f_out) == both
    assert sizes.sparse_u_rank(s, 9 * f_in, f_out) == only_u
    assert sizes.doped_rank(s, 9 * f_in, f_out) == doped
    assert sizes.branches(s) == k
    assert sizes.widened(64, sizes.wide_factor(s)) == width


def test_wide_factorized_ranks_are_the_published_ones():
    for s, _, _, wide_in, wide_out, rank in WIDTHS["wide_factorized"]:
        factor = sizes.wide_factor(s)
        old_in, old_out = (int(int(w) / factor + 1e-9) for w in (wide_in, wide_out))
        found = sizes.wide_factorized_rank(9 * old_in, old_out, 9 * int(wide_in), int(wide_out))
        assert found == rank


@pytest.mark.parametrize("s", [0.0, 0.5, 0.75, 0.9])
@pytest.mark.parametrize(("d_in", "d_out"), [(64, 64), (576, 64), (4608, 512)])
def test_each_family_costs_what_the_layer_cost(s, d_in, d_out):
    whole = d_in * d_out
    assert (1 - s) * sizes.wide_factor(s) ** 2 == pytest.approx(1)
    assert (1 - s) * sizes.branches(s) == pytest.approx(1)
    rank = sizes.factorized_rank(s, d_in, d_out)
    assert 1 <= (1 - s) * rank * (d_in + d_out) / whole + 1e-9 < 1 + 1 / (rank - 1) + 1e-8
    rank = sizes.doped_rank(s, d_in, d_out)
    one = (d_in + d_out) / whole
    assert 1 - one < (1 - s) + rank * one <= 1 + 1e-9


def test_without_sparsity_nothing_grows():
    assert sizes.wide_factor(0) == 1
    assert sizes.branches(0) == 1
    assert sizes.doped_rank(0, 576, 64) == 0
    assert sizes.factorized_rank(0, 64, 64) == 32


@pytest.mark.parametrize(
    ("s", "low", "high"),
    [(0.7, "0.666667", "0.75"), (0.4, "0", "0.5"), (0.92, "0.916667", "0.923077")],
)
def test_a_sparsity_without_a_whole_number_of_branches_names_its_neighbours(s, low, high):
    with pytest.raises(RetrofitError, match=rf"nearest allowed are {low} and {high}, or `resolve"):
        sizes.branches(s)
    near = sizes.resolved(s)
    assert sizes.branches(near) == round(1 / (1 - s))
    assert abs(near - s) < 0.2


@pytest.mark.parametrize("s", [-0.1, 1.0, 1.5])
def test_no_sparsity_at_all(s):
    with pytest.raises(RetrofitError, match="at least 0 and less than 1"):
        sizes.wide_factor(s)


def test_the_sparsity_for_a_budget_in_closed_form():
    s = sizes.solve_sparsity(budget=100, dense=20, maskable=320)
    assert s == 0.75
    assert 20 + (1 - s) * 320 == 100
    assert sizes.solve_sparsity(100, 0, 50) == 0
    assert sizes.solve_sparsity(100, 100, 0) == 0
    with pytest.raises(
        RetrofitError, match="stay dense cost 101, more than the whole budget of 100"
    ):
        sizes.solve_sparsity(100, 101, 320)
    assert not math.isnan(sizes.solve_sparsity(0, 0, 1))

"""Structured initial weights on counts and correlations that can be worked out, and refusals."""

import numpy as np
import pytest

from methods.data.kinds import Table
from methods.dynamics.rich_lazy import structures
from methods.study.errors import RetrofitError

CLASSES = ["other cell", "excitatory neuron", "inhibitory neuron"]


def rng(seed=0):
    return np.random.default_rng(seed)


def test_dales_law_gives_every_column_one_sign_and_balances_rows():
    w = structures.dale(500, rng())
    signs = np.sign(w)
    assert (signs == signs[0]).all()
    assert (signs[0] < 0).sum() == 100
    assert set(np.flatnonzero(signs[0] < 0)) == set(range(400, 500))
    # Mean of a row's sum is 0; its deviation sqrt(400 var + 100 * 16 var), var = 1 - 2 / pi.
    spread = np.sqrt(2000 * (1 - 2 / np.pi))
    assert abs(w.sum(1).mean()) < 5 * spread / np.sqrt(500)
    free = structures.dale(500, rng(), balanced=False)
    np.testing.assert_array_equal(np.abs(free), np.abs(w) / np.where(signs < 0, 4.0, 1.0))
    assert free.sum(1).mean() > 100


def test_cell_types_have_the_columns_probabilities_and_signs():
    size = 3000
    kind = structures.populations(size)
    counts = np.bincount(kind)
    np.testing.assert_allclose(counts, size * structures.CELLS / structures.CELLS.sum(), atol=1)
    assert counts.sum() == size
    w = structures.cell_types(size, rng())
    for target in range(8):
        for source in range(8):
            block = w[np.ix_(kind == target, kind == source)]
            p = structures.PROBABILITY[target, source]
            deviation = np.sqrt(p * (1 - p) / block.size)
            assert abs((block != 0).mean() - p) <= 5 * deviation
            values = block[block != 0]
            if values.size:
                assert (np.sign(values) == (1 if source % 2 == 0 else -1)).all()
    assert np.abs(w[:, kind == 1][w[:, kind == 1] != 0]).mean() == pytest.approx(4, rel=0.01)


def test_populations_of_a_small_network_have_all_units():
    for size in (2, 8, 63, 64):
        assert len(structures.populations(size)) == size


@pytest.mark.parametrize("tau", [0.2, -0.2, 0.05, -0.5])
def test_chains_are_as_frequent_as_asked(tau):
    estimates, variances, rows = [], [], []
    for seed in range(20):
        w = structures.chain(200, rng(seed), tau)
        np.fill_diagonal(w, 0.0)
        # sum over i, j, k of W_ij W_jk = 1' W W 1.
        total = w.sum()
        estimates.append((w @ w).sum() / 200**3)
        rows.append(((w @ w.T).sum() - (w**2).sum()) / 200**3)
        variances.append((w**2).mean())
        assert abs(total) < 200**2
    error = 5 * np.std(estimates) / np.sqrt(20) + 2 / 200
    assert np.mean(estimates) == pytest.approx(tau, abs=error)
    assert np.mean(variances) == pytest.approx(1, abs=0.1)
    assert np.mean(rows) == pytest.approx(abs(tau), abs=error)


def table(kinds=(1, 2, 1, 0)):
    x = np.arange(16, dtype=float).reshape(4, 4)
    return Table("worm.all", x, np.array(kinds), ["A", "B", "C", "m"], CLASSES)


def test_a_connectome_keeps_neurons_and_takes_its_sign_from_the_source():
    graph = structures.neurons(table())
    assert graph.names == ["A", "B", "C"]
    np.testing.assert_array_equal(graph.sign, [1, -1, 1])
    np.testing.assert_array_equal(graph.contacts, [[0, 1, 2], [4, 5, 6], [8, 9, 10]])
    # Rows of contacts are sources, columns of weights are.
    w = structures.connectome(graph, 3, rng())
    signed = np.array([[0, 1, 2], [-4, -5, -6], [8, 9, 10]]).T
    assert sorted(w.ravel()) == sorted(signed.ravel())
    inhibitory = np.flatnonzero((w < 0).any(0))
    assert len(inhibitory) == 1
    assert (w[:, inhibitory] <= 0).all()
    np.testing.assert_allclose(np.linalg.svd(w)[1], np.linalg.svd(signed)[1], atol=1e-9)


def test_the_core_is_the_strongest_neurons():
    assert structures.neurons(table()).core(2).names == ["B", "C"]


def test_shuffling_keeps_the_weights():
    w = structures.dale(20, rng())
    mixed = structures.shuffled(w, rng(1))
    assert (mixed != w).any()
    np.testing.assert_array_equal(np.sort(mixed.ravel()), np.sort(w.ravel()))


def test_refusals():
    with pytest.raises(RetrofitError, match="the connectome has no neurons among its 4 cells"):
        structures.neurons(table((0, 0, 0, 0)))
    with pytest.raises(RetrofitError, match="size 4: the connectome has 3 neurons"):
        structures.neurons(table()).core(4)
    wide = Table("soup.all", np.zeros((3, 2)), np.zeros(3, int), ["a", "b"], ["x", "y"])
    with pytest.raises(RetrofitError, match=r"soup.all: a connectome is square"):
        structures.neurons(wide)
    broken = table()
    broken.x[1, 2] = np.inf
    with pytest.raises(RetrofitError, match="must be finite"):
        structures.neurons(broken)
    with pytest.raises(RetrofitError, match="one excitatory and one inhibitory"):
        structures.dale(3, rng(), inhibitory=0.1)
    with pytest.raises(RetrofitError, match="tau 0: a correlation"):
        structures.chain(5, rng(), 0)
    with pytest.raises(RetrofitError, match="no connection was drawn"):
        structures.cell_types(1, rng())

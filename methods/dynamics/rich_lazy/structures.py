"""Initial weights with the structure of brains: Dale's law, cell types, chain motifs, a connectome.

Every function gives [N, N], row = target, column = source, on a scale of its own: `initial.matched` brings all of
them to that of a Gaussian matrix.  Structure is in the start only; training may change signs and fill zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.data.kinds import Table

PROBABILITY = np.array(
    [
        [0.1009, 0.1689, 0.0437, 0.0818, 0.0323, 0.0000, 0.0076, 0.0000],
        [0.1346, 0.1371, 0.0316, 0.0515, 0.0755, 0.0000, 0.0042, 0.0000],
        [0.0077, 0.0059, 0.0497, 0.1350, 0.0067, 0.0003, 0.0453, 0.0000],
        [0.0691, 0.0029, 0.0794, 0.1597, 0.0033, 0.0000, 0.1057, 0.0000],
        [0.1004, 0.0622, 0.0505, 0.0057, 0.0831, 0.3726, 0.0204, 0.0000],
        [0.0548, 0.0269, 0.0257, 0.0022, 0.0600, 0.3158, 0.0086, 0.0000],
        [0.0156, 0.0066, 0.0211, 0.0166, 0.0572, 0.0197, 0.0396, 0.2252],
        [0.0364, 0.0010, 0.0034, 0.0005, 0.0277, 0.0080, 0.0658, 0.1443],
    ]
)
"""Connection probabilities of a cortical column (Potjans and Diesmann 2014): target rows, source columns; layers 2/3,
4, 5 and 6, each excitatory then inhibitory."""
CELLS = np.array([20683, 5834, 21915, 5479, 4850, 1065, 14395, 2948])
"""Their numbers of cells."""
INHIBITION, SPREAD = 4.0, 0.1
"""Relative strength of that model's inhibitory synapses, and the relative deviation of single ones."""


def dale(
    size: int, rng: np.random.Generator, inhibitory: float = 0.2, balanced: bool = True
) -> np.ndarray:
    """Dale's law: every column has one sign, the last share `inhibitory` of columns the negative one.

    Magnitudes are |N(0, 1)|; `balanced` makes inhibition stronger (4 times at 20 %), so that excitation and inhibition
    cancel in a row's mean.
    """
    minus = round(inhibitory * size)
    if not 0 < minus < size:
        raise RetrofitError(
            f"inhibitory {inhibitory}: {size} units need one excitatory and one inhibitory at least"
        )
    sign = np.ones(size)
    sign[size - minus :] = -(size - minus) / minus if balanced else -1.0
    return np.abs(rng.standard_normal((size, size))) * sign


def populations(size: int) -> np.ndarray:
    """Which of the eight populations each unit is in, int [N]: shares of `CELLS`, largest remainders rounded up."""
    exact = size * CELLS / CELLS.sum()
    counts = np.floor(exact).astype(int)
    short = np.argsort(counts - exact, kind="stable")[: size - counts.sum()]
    counts[short] += 1
    return np.repeat(np.arange(len(CELLS)), counts)


def cell_types(size: int, rng: np.random.Generator) -> np.ndarray:
    """A cortical column in small: connections drawn by type of target and source, inhibitory ones 4 times as strong.

    Raises RetrofitError where the network is so small that no connection was drawn.
    """
    kind = populations(size)
    present = rng.random((size, size)) < PROBABILITY[np.ix_(kind, kind)]
    if not present.any():
        raise RetrofitError(f"cell_types: {size} units are too few, no connection was drawn")
    weight = np.where(kind % 2 == 0, 1.0, -INHIBITION)
    return present * weight * (1.0 + SPREAD * rng.standard_normal((size, size)))


def chain(size: int, rng: np.random.Generator, tau: float) -> np.ndarray:
    """Unit variance and corr(W_ij, W_jk) = tau: paths j -> i after k -> j are over- or under-represented.

    W_ij = sqrt(1 - 2 |tau|) xi_ij + sqrt(|tau|) (v_i + sign(tau) v_j), with xi and v standard normal: a Gaussian matrix
    plus v 1' + sign(tau) 1 v'.  Weights of one row, and of one column, are then correlated by |tau|, the least that
    chains of strength tau allow.
    """
    if not 0.0 < abs(tau) <= 0.5:
        raise RetrofitError(f"tau {tau}: a correlation from -.5 to .5, and not 0")
    v = rng.standard_normal(size)
    shared = v[:, None] + np.sign(tau) * v[None, :]
    single = rng.standard_normal((size, size))
    return np.sqrt(1.0 - 2.0 * abs(tau)) * single + np.sqrt(abs(tau)) * shared


@dataclass(frozen=True)
class Connectome:
    """contacts [n, n] from row onto column, between neurons only; sign [n], 1 or -1; names [n]."""

    contacts: np.ndarray
    sign: np.ndarray
    names: Sequence[str]

    def core(self, size: int) -> Connectome:
        """The `size` neurons with the largest weights in and out.  RetrofitError where there are fewer."""
        if size > len(self.names):
            raise RetrofitError(
                f"size {size}: the connectome has {len(self.names)} neurons, so at most {len(self.names)} units"
            )
        strength = self.contacts.sum(axis=0) + self.contacts.sum(axis=1)
        kept = np.sort(np.argsort(-strength, kind="stable")[:size])
        return Connectome(
            self.contacts[np.ix_(kept, kept)], self.sign[kept], [self.names[i] for i in kept]
        )


def neurons(table: Table) -> Connectome:
    """The neurons of a data set made by the builder `connectome`.

    Raises RetrofitError for a table that is not square, has a value that is negative or not finite, or no neurons.
    """
    if table.x.shape != (len(table.columns), len(table.columns)):
        raise RetrofitError(
            f"{table.name}: a connectome is square, cells by cells; this table is {table.x.shape}"
        )
    if not (np.isfinite(table.x).all() and (table.x >= 0).all()):
        raise RetrofitError(f"{table.name}: contacts must be finite and not negative")
    kinds = np.array([table.classes[index] for index in table.y])
    kept = np.flatnonzero(np.char.endswith(kinds, "neuron"))
    if not kept.size:
        raise RetrofitError(
            f"{table.name}: the connectome has no neurons among its {len(kinds)} cells"
        )
    sign = np.where(kinds[kept] == "inhibitory neuron", -1.0, 1.0)
    return Connectome(table.x[np.ix_(kept, kept)], sign, [table.columns[i] for i in kept])


def connectome(graph: Connectome, size: int, rng: np.random.Generator) -> np.ndarray:
    """Contacts among the strongest `size` neurons with the sign of their source, neurons in random order."""
    core = graph.core(size)
    order = rng.permutation(size)
    return (core.contacts * core.sign[:, None]).T[np.ix_(order, order)]


def shuffled(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The entries of w [N, N] in random places: the same weights, without structure."""
    return rng.permutation(w.ravel()).reshape(w.shape)

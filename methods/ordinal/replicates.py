"""The replicates of one setting: synthetic draws, or random stratified splits of a table.

A replicate's stream of random numbers has its own name, in which neither the method nor the number of
replicates occurs: every variant sees the same data, and the first 20 of 700 replicates are the 20.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from methods.ordinal.designs import DESIGNS, draw, outcomes
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.data.kinds import Table
    from methods.run.context import Context


@dataclass(frozen=True)
class Replicate:
    """Training and test rows; `truth` [n] is the rare class's true probability on the training rows."""

    label: str
    classes: int
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    truth: np.ndarray | None


def synthetic(design: str, rows: int, replicate: int, context: Context) -> Replicate:
    """A draw of a paper's design, and as many new outcomes at the same x for the test scores."""
    rng = context.numpy(f"presto {design} {rows} replicate {replicate}")
    made = draw(DESIGNS[design], rows, rng)
    fresh = outcomes(made.probabilities, rng)
    classes = made.probabilities.shape[1]
    truth = made.probabilities[:, -1]
    return Replicate(f"{replicate}", classes, made.x, made.y, made.x, fresh, truth)


def split(table: Table, test_share: float, replicate: int, context: Context) -> Replicate:
    """A random split of `table`, stratified by class."""
    rng = context.numpy(f"presto {table.name} {test_share} replicate {replicate}")
    test = stratified_test_rows(table.y, test_share, rng)
    return Replicate(
        f"{replicate}",
        len(table.classes),
        table.x[~test],
        table.y[~test],
        table.x[test],
        table.y[test],
        None,
    )


def stratified_test_rows(y: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """bool [n]: about `share` of every class, the total rounded as a whole."""
    order = rng.permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    # Every 1/share-th row of the class-sorted, shuffled order, from a random start.
    position = (np.arange(len(y)) + rng.random()) * share
    chosen = np.floor(position + share) > np.floor(position)
    test = np.zeros(len(y), dtype=bool)
    test[order[chosen]] = True
    return test


def limited(table: Table) -> Table:
    """The rows that the study asks for (`limit`): the first so many of a shuffle that no seed enters."""
    limit = getattr(table, "options", {}).get("limit")
    if limit is None or limit >= len(table.y):
        return table
    rows = np.sort(np.random.default_rng(0).permutation(len(table.y))[:limit])
    return replace(table, x=table.x[rows], y=table.y[rows])


def checked(table: Table) -> Table:
    """`table` itself, or RetrofitError: NaN, fewer than two classes, or a class with too few rows."""
    bad = np.argwhere(~np.isfinite(table.x))
    if len(bad):
        row, column = bad[0]
        raise RetrofitError(
            f"{table.name}: column '{table.columns[column]}' is not finite in row {row + 1}"
        )
    counts = np.bincount(table.y, minlength=len(table.classes))
    if len(counts) < 2:
        raise RetrofitError(f"{table.name}: ordinal methods need two classes, found {len(counts)}")
    if counts.min() < 5:
        scarce = table.classes[int(counts.argmin())]
        raise RetrofitError(
            f"{table.name}: class '{scarce}' has {counts.min()} rows; splits and folds need at least 5"
        )
    return table

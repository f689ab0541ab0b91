"""The published PRESTO paths and the exact optima, as arrays."""

import json
from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden" / "presto"
NAMES = ("synth_centered", "synth_K3_p2")


@cache
def data(name):
    table = np.loadtxt(FOLDER / f"{name}_data.csv", delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1].astype(int) - 1


@cache
def published(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def exact(name):
    """(index on the path, optimum) of cvxpy."""
    stored = json.loads((FOLDER / "cvxpy_exact.json").read_text(encoding="utf-8"))[name]
    return [(int(index), optimum) for index, optimum in stored.items()]


def fold_of(name):
    folds = published(name)["folds"]
    assigned = np.empty(sum(map(len, folds.values())), dtype=int)
    for fold, rows in folds.items():
        assigned[rows] = int(fold) - 1
    return assigned

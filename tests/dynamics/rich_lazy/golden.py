"""What the published code, and neurogym, computed (see tests/golden/README.md)."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch

from methods.dynamics.rich_lazy.network import Weights

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "rich_lazy"
LAYERS = ("rnn.input2h", "rnn.h2h", "fc")


@cache
def network():
    return dict(np.load(FOLDER / "net_rank4.npz"))


@cache
def neurogym(task):
    found = np.load(FOLDER / "neurogym.npz")
    return {
        name.removeprefix(f"{task}/"): found[name]
        for name in found.files
        if name.startswith(f"{task}/")
    }


@cache
def linear():
    return json.loads((FOLDER / "linear_theory.json").read_text(encoding="utf-8"))


def tensor(name):
    return torch.from_numpy(network()[name])


def weights(when):
    return Weights(*(tensor(f"{when}/{layer}.weight")[None] for layer in LAYERS))


def inputs():
    return tensor("x0")[None]

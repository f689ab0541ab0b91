"""What the published code computed: templates, coefficients and grown weights."""

from pathlib import Path

import numpy as np
import torch

FILE = np.load(Path(__file__).parents[1] / "golden" / "vision" / "mixture_growth.npz")
LAYOUTS = [(t, sets) for t in (2, 4, 6) for sets in ("0101", "0110", "0000")]


def tensor(name):
    return torch.from_numpy(FILE[name])


def has(name):
    return name in FILE.files


def templates(prefix):
    return [tensor(f"{prefix}_sd_trainable_parameters.template_set_{i}") for i in (0, 1)]


def alphas(prefix, members=4):
    return [tensor(f"{prefix}_sd_coefficients.coefs_member_{i}") for i in range(members)]

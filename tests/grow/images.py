"""Small pictures to train on, and settings that train on them in a second."""

import numpy as np
from sklearn.datasets import load_digits

from methods.data.kinds import Images
from methods.run.context import Context

WIDE = {"architecture": "wide_residual", "width": 8, "stem": 8, "blocks": 1}
RECIPE = {"batch": 50, "warm_up": 0.5, "shift": 0, "mirror": False, "cutout": 0, "final_rate": 1e-4}
GROWTH = {**RECIPE, "cycles": 1, "learning_rate": 0.02}


def digits(name="digits.train", rows=slice(0, 600)):
    found = load_digits()
    x = (found.images[rows] * 15).astype(np.uint8)
    return Images(name, x, found.target[rows].astype(np.int64), [str(i) for i in range(10)])


DATA = {"train": [digits()]}


def run(apply, base, params, data=DATA, seed=0):
    """(network, history)."""
    context = Context(seed=seed)
    return apply(base, data, params, context), context.history

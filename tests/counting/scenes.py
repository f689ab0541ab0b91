"""Small drawn scenes: bright squares on a dark ground, one point each."""

import numpy as np

from methods.counting.params import DensityCounting, DensityMaps
from methods.data.kinds import Scenes

MAPS = DensityMaps(sigma=2.0, size=9)


def scenes(count=6, size=(48, 56), seed=0, name="squares"):
    rng = np.random.default_rng(seed)
    images, points = [], []
    for number in range(count):
        image = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
        found = []
        for _ in range(number % 5):
            x, y = rng.integers(3, size[1] - 3), rng.integers(3, size[0] - 3)
            image[y - 2 : y + 3, x - 2 : x + 3] = 240
            found.append((x + 0.5, y + 0.5))
        images.append(image)
        points.append(np.array(found, np.float64).reshape(-1, 2))
    return Scenes(name, images, points, [f"{name} {i}" for i in range(count)])


def params(**changes):
    network = {"architecture": "hmode", "width": 2, "second_gate": 16, "positive": "softplus"}
    plain = {
        "network": network,
        "initial": "he",
        "crop": 48,
        "batch": 2,
        "epochs": 3,
        "milestones": [2],
        "check_from": 0,
        "learning_rate": 1e-3,
        "validation": 0.34,
        "pictures": 0,
    }
    return DensityCounting.model_validate({**plain, **changes})

"""Arrays of the published preparations and of an independent count (see tests/golden/README.md)."""

from pathlib import Path

import numpy as np

FILE = Path(__file__).parents[1] / "golden" / "counting" / "density.npz"


def golden():
    with np.load(FILE) as file:
        return {key: file[key] for key in file.files}

"""Numbers of the published code, see tests/golden/README.md."""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden" / "vision"
WIDTHS = np.load(FOLDER / "sift_widths.npz")
DST = np.load(FOLDER / "sift_dst.npz")
NETWORKS = json.loads((FOLDER / "sift_networks.json").read_text(encoding="utf-8"))

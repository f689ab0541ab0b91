"""Arrays computed with the published code."""

from pathlib import Path

import numpy as np
import torch

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "search" / "tanglenas_core.npz")


def golden(name):
    return torch.from_numpy(GOLDEN[name])


def names(prefix):
    return [name for name in GOLDEN.files if name.startswith(prefix)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)

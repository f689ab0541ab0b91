"""Golden arrays of the linearize family, head-first."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden" / "llm"


@cache
def arrays(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def head_first(name: str) -> torch.Tensor:
    """Of fla_naive, `[B, T, H, ·]` as `[B, H, T, ·]`."""
    return arrays("fla_naive")[name].transpose(1, 2)

"""A vision network whose layers have stand-ins, as an artifact."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from methods.models.networks.network import CONFIG, Network, read
from methods.prune.layers import described, installed

STAND_INS = "stand_ins"


@dataclass
class SparseNetwork(Network):
    """A `Network` that also writes which layers have which stand-ins (``config.json``, ``stand_ins``).

    Masks are not written: what they ruled out is zero, and :func:`methods.prune.sparse_training.attach`
    is for training.
    """

    loader: ClassVar[str] = "methods.prune.network:load"

    def save(self, directory: Path) -> None:
        """Write configuration and weights; raises RetrofitError as `Network.save` does."""
        super().save(directory)
        path = Path(directory) / CONFIG
        config = json.loads(path.read_text(encoding="utf-8"))
        config[STAND_INS] = described(self.module)
        path.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load(directory: Path) -> SparseNetwork:
    """What :meth:`SparseNetwork.save` wrote, in evaluation mode. Raises RetrofitError."""
    fields, module, packed = read(
        directory, lambda fresh, config: installed(fresh, config[STAND_INS])
    )
    return SparseNetwork(module, **fields, quantized=packed)

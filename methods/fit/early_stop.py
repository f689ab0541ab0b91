"""Early stopping on a validation score, with the best weights put back."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn


class EarlyStop:
    """Stop after ``patience`` epochs without a score better than the best by ``margin``.

    Higher is better. The score must come from data held out of training, never from the test
    set. With ``restore`` the network ends with the weights of its best epoch.
    """

    def __init__(self, patience: int, margin: float = 0.0, restore: bool = True):
        if patience < 1:
            raise ValueError(f"patience={patience}: must be at least 1")
        self.patience, self.margin, self.restore = patience, margin, restore
        self.best, self.best_epoch, self.waited = -math.inf, -1, 0
        self._weights: dict[str, Tensor] = {}

    def update(self, score: float, epoch: int, network: nn.Module) -> bool:
        """Take an epoch's score; True when training should stop. A NaN never counts as better."""
        if score > self.best + self.margin:
            self.best, self.best_epoch, self.waited = score, epoch, 0
            if self.restore:
                self._weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
        else:
            self.waited += 1
        return self.waited >= self.patience

    def finish(self, network: nn.Module) -> None:
        """Put the best weights back, where they were asked for."""
        if self._weights:
            network.load_state_dict(self._weights)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, JSON) for the checkpoint."""
        best = None if math.isinf(self.best) else self.best
        return self._weights, {"best": best, "epoch": self.best_epoch, "waited": self.waited}

    def restore_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` gave."""
        self._weights = tensors
        self.best = -math.inf if state["best"] is None else state["best"]
        self.best_epoch, self.waited = state["epoch"], state["waited"]

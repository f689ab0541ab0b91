"""How often the code of a weight goes there and back: the metric, and the two baselines made of it.

Nagel et al., "Overcoming oscillations in quantization-aware training" (2203.11086): the frequency
(section 3.1), dampening (4.1) and iterative freezing (4.2). OFQ (2302.02210) measures with the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

OSCILLATES = 0.005
"""A weight oscillates when its frequency is above this."""
MOMENTUM = 0.01


def oscillated(codes: Tensor, previous: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """(bool: came back on its last change, int8 sign of that change) for integer codes of any shape.

    direction: the sign of the last change before, as previous - now; 0 where there was none. A jump
    of several codes counts once.
    """
    change = (previous - codes).sign().to(torch.int8)
    return direction * change == -1, torch.where(change != 0, change, direction)


def frequency(happened: Tensor, before: Tensor, momentum: float = MOMENTUM) -> Tensor:
    """f <- m o + (1 - m) f."""
    return torch.lerp(before, happened.to(before.dtype), momentum)


def dampening(w: Tensor, levels: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """sum (Q(w) - clip(w, lowest, highest))^2 with no gradient to Q(w) (Nagel et al., eq. 7)."""
    return (levels.detach() - w.clamp(lowest, highest)).square().sum()


class Oscillation(nn.Module):
    """Follows the codes of one weight; all of its state is in buffers.

    codes: int `[out, in]` where following begins. freezing: also keep what iterative freezing needs:
    a moving average of the codes, which weights are frozen, and their codes.
    """

    def __init__(self, codes: Tensor, momentum: float = MOMENTUM, freezing: bool = False):
        super().__init__()
        self.momentum, self.freezing = momentum, freezing
        self.register_buffer("previous", codes.to(torch.int16))
        self.register_buffer("direction", torch.zeros_like(codes, dtype=torch.int8))
        self.register_buffer("frequency", torch.zeros_like(codes, dtype=torch.float32))
        self.register_buffer("count", torch.zeros_like(codes, dtype=torch.int32))
        if freezing:
            self.register_buffer("average", codes.to(torch.float32))
            self.register_buffer("frozen", torch.zeros_like(codes, dtype=torch.bool))
            self.register_buffer("frozen_code", torch.zeros_like(self.previous))

    @torch.no_grad()
    def update(self, codes: Tensor, threshold: float | None = None) -> Tensor:
        """Take the codes after an update; the codes that hold, int16, frozen ones among them.

        threshold: weights whose frequency is above it are frozen for good, at the rounded average of
        their codes; as published, that average is read anew while the frequency stays above it.
        """
        codes = codes.to(torch.int16)
        if self.freezing:
            codes = torch.where(self.frozen, self.frozen_code, codes)
        happened, self.direction = oscillated(codes, self.previous, self.direction)
        self.frequency = frequency(happened, self.frequency, self.momentum)
        self.count += happened
        self.previous = codes
        if self.freezing:
            if threshold is not None:
                freeze = self.frequency > threshold
                rounded = self.average.round().to(torch.int16)
                self.frozen_code = torch.where(freeze, rounded, self.frozen_code)
                self.frozen |= freeze
            self.average = torch.lerp(self.average, codes.float(), self.momentum)
        return codes

    @property
    def oscillating(self) -> Tensor:
        """Bool, the shape of the codes."""
        return self.frequency > OSCILLATES


class Tracker(nn.ModuleDict):
    """An :class:`Oscillation` for each weight, by name; survives a kill with the training loop.

    Keys are names with `/` for `.`, which module names cannot have.
    """

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The buffers."""
        return dict(self.state_dict()), {}

    def restore_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` gave."""
        self.load_state_dict(tensors)

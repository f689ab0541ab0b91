"""The rate network (arXiv 2310.08513, as its published code has it), many of them side by side.

    h_t = relu((1 - a) h_{t-1} + a (W_in x_t + W_h h_{t-1})),   h_0 = 0,   y_t = W_out h_t,   a = dt / tau

without biases.  The input of the same step enters, as in the published update.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Weights:
    """w_in [M, N, inputs], w_h [M, N, N], w_out [M, outputs, N] of M networks."""

    w_in: Tensor
    w_h: Tensor
    w_out: Tensor

    def tensors(self) -> list[Tensor]:
        """The three, in this order."""
        return [self.w_in, self.w_h, self.w_out]

    def part(self, members: slice) -> Weights:
        """Some of the networks; shares memory."""
        return Weights(*(tensor[members] for tensor in self.tensors()))


def states(weights: Weights, x: Tensor, alpha: float = 1.0) -> Tensor:
    """Hidden states h_1..h_T, [M, T, batch, N], for inputs x [M, T, batch, inputs]."""
    members, steps, batch, _ = x.shape
    drive = torch.bmm(x.reshape(members, steps * batch, -1), weights.w_in.mT)
    drive = drive.view(members, steps, batch, -1)
    recurrent = weights.w_h.mT
    h, found = None, []
    for t in range(steps):
        now = drive[:, t]
        if h is not None:
            now = torch.baddbmm(now, h, recurrent)
        if alpha != 1.0:
            now = alpha * now if h is None else (1.0 - alpha) * h + alpha * now
        h = torch.relu(now)
        found.append(h)
    return torch.stack(found, 1)


def outputs(weights: Weights, h: Tensor) -> Tensor:
    """y [M, T, batch, outputs] from states [M, T, batch, N]."""
    members, steps, batch, _ = h.shape
    flat = torch.bmm(h.reshape(members, steps * batch, -1), weights.w_out.mT)
    return flat.view(members, steps, batch, -1)


def losses(weights: Weights, h: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy [M] over the last steps of h, as many as `labels` int64 [M, read, batch] has."""
    y = outputs(weights, h[:, h.shape[1] - labels.shape[1] :])
    each = functional.cross_entropy(y.flatten(0, 2), labels.flatten(), reduction="none")
    return each.view(len(labels), -1).mean(1)

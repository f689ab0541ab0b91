"""What a changed output costs, as pure functions of outputs `[b, …, channels]`.

*Fidelity.* `l2` is AdaRound's and BRECQ's: squared error summed over channels, mean over the rest.
The others are what the paper's question about losses compares, in our reading.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, huber_loss


def l2(found: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum over channels of the squared error; mean over everything else."""
    return (found - wanted).square().sum(-1).mean()


def l1(found: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum over channels of the absolute error."""
    return (found - wanted).abs().sum(-1).mean()


def huber(found: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Quadratic up to the standard deviation of the wanted outputs, linear beyond; summed likewise."""
    bound = float(wanted.detach().std().clamp(min=1e-6))
    return huber_loss(found, wanted, reduction="none", delta=bound).sum(-1).mean()


def cosine(found: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """One minus the cosine of every row's outputs."""
    return (1 - cosine_similarity(found, wanted, dim=-1, eps=1e-6)).mean()


def normalised_l2(found: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Squared error of a row relative to its square."""
    return ((found - wanted).square().sum(-1) / wanted.square().sum(-1).clamp(min=1e-6)).mean()


def fisher(found: Tensor, wanted: Tensor, weight: Tensor | None = None) -> Tensor:
    """Squared error weighted by the mean squared gradient of the task loss, `weight` `[channels]`
    of mean 1 (after BRECQ, eq. 10).
    """
    error = (found - wanted).square()
    return (error if weight is None else error * weight).sum(-1).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "l2": l2,
    "l1": l1,
    "huber": huber,
    "cosine": cosine,
    "normalised_l2": normalised_l2,
    "fisher": fisher,
}


@torch.no_grad()
def channels_last(x: Tensor, channels: int) -> Tensor:
    """Move the axis of `channels` to the end, for convolutions' `[b, c, h, w]`."""
    return x.movedim(1, -1) if x.dim() == 4 and x.shape[1] == channels else x

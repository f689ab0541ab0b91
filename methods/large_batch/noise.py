"""Multiplicative gradient noise: a large batch whose updates vary like a small one's.

Hoffer, Hubara, Soudry 2017 (arXiv 1705.08741), section 3.3: the gradient of sample n is multiplied
by z_n ~ N(1, sigma^2), independently. The mean gradient stays; its covariance becomes
(1 + sigma^2)/M times that of a sample's gradient (about zero mean, as the paper has it), so
sigma^2 = M_L/M_S - 1 gives the large batch the covariance of the small one.

Fidelity
--------
The paper describes the noise and says sigma^2 should grow with the batch; the constant -1 follows
from its derivation. The published code does not implement it. It is applied to the losses, of
which the gradients are linear: mean(z_n loss_n).
"""

from __future__ import annotations

import torch
from torch import Tensor


def matching_variance(batch: int, reference: int) -> float:
    """sigma^2 with which ``batch`` has the update covariance of ``reference``; never negative."""
    return max(batch / reference - 1.0, 0.0)


def sample_weights(count: int, variance: float, generator: torch.Generator) -> Tensor:
    """float32 [count] draws of N(1, variance)."""
    return 1.0 + variance**0.5 * torch.randn(count, generator=generator)


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """mean(z_n loss_n), or the plain mean without weights. [n], [n] to a scalar."""
    return losses.mean() if weights is None else (weights.to(losses.device) * losses).mean()

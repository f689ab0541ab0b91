"""The loss against labels and a float teacher: OFQ's recipe, T = 1 and weights 1 : 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from methods.fit.batches import standardise
from methods.models.networks.network import Network


def distillation_loss(
    logits: Tensor, labels: Tensor, teacher: Tensor | None, distilled: Tensor | None = None
) -> Tensor:
    """CE(logits, labels) + CE(distilled, softmax(teacher)), means over `[n, classes]`.

    distilled: logits of a head of its own for the teacher (a distilled DeiT); else the same logits.
    teacher: None leaves the first term.
    """
    loss = cross_entropy(logits.float(), labels)
    if teacher is None:
        return loss
    student = logits if distilled is None else distilled
    return loss + cross_entropy(student.float(), teacher.float().softmax(-1))


class Teacher:
    """A float network in evaluation mode, and without gradients.

    The published code does neither (no `eval()`, no `no_grad()` anywhere): with dropout its targets
    are random, with batch normalisation they depend on the batch, and a distilled DeiT gives its class
    head where its averaged prediction was meant.

    Where images are never changed, its logits of all of them are computed once.
    """

    def __init__(self, network: Network, pixels: Tensor, changing: bool):
        self.network = network
        self.network.module.to(pixels.device).eval().requires_grad_(False)
        self._known = None if changing else torch.cat([self._logits(p) for p in pixels.split(1000)])

    @torch.no_grad()
    def _logits(self, pixels: Tensor) -> Tensor:
        return self.network.module(standardise(pixels, self.network.mean, self.network.std)).float()

    def logits(self, pixels: Tensor, chosen: Tensor) -> Tensor:
        """float32 `[n, classes]` for uint8 images `[n, c, h, w]`, which are number `chosen`."""
        return self._logits(pixels) if self._known is None else self._known[chosen]

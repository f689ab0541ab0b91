"""Gates of a mixture of experts: which experts answer for x, and with what probability.

Fidelity
--------
Papers: softmax over logits beta1_i·x + beta0_i (2309.13850, section 2); the K largest of them keep theirs and the rest
get -inf (top-K); divided by a temperature tau (2401.13875, the linear model); phi(beta1_i·x) in place of the score
(2401.13875, the activation model, beta0 outside of phi).
Chosen: the top-K paper ranks by beta1_i·x without beta0, re-implementations rank by both. `ranking` says which; the
likelihoods differ. Ties go to the expert that comes first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from methods.study.errors import RetrofitError, choices

Activation = Literal["identity", "relu", "sigmoid", "tanh", "gelu"]
ACTIVATIONS: tuple[str, ...] = ("identity", "relu", "sigmoid", "tanh", "gelu")
DEPENDENT = {
    "identity": "phi(t) = t, so the score beta1·x is t phi'(t) and cannot be told from a change of scale",
    "relu": "phi(c t) = c phi(t) for c > 0, so beta1, beta0 and tau can be scaled together",
}
"""Activations without first-order independence (2401.13875, Definition 3.1), and why: tau is not identified."""


@dataclass(frozen=True)
class Gate:
    """The form of a gate; its numbers are arguments of the functions below.

    active: how many experts answer for one x, None: all. ranking: what the K largest are of, "slope" (beta1·x) or
    "logit" (with beta0). activation: phi. tempered: whether there is a temperature.
    """

    active: int | None = None
    ranking: Literal["slope", "logit"] = "slope"
    activation: str = "identity"
    tempered: bool = False

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise RetrofitError(
                f"there is no activation '{self.activation}'; {choices(self.activation, ACTIVATIONS)}"
            )
        if self.ranking not in ("slope", "logit"):
            raise RetrofitError(f"ranking '{self.ranking}': allowed: slope, logit")
        if self.active is not None and self.active < 1:
            raise RetrofitError(f"active {self.active}: at least one expert answers")

    def check(self, experts: int) -> None:
        """Refuse more active experts than there are."""
        if self.active is not None and self.active > experts:
            raise RetrofitError(f"active {self.active}: there are {experts} experts")


def activate(score: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """phi(t) and phi'(t), element by element."""
    if name == "identity":
        return score, torch.ones_like(score)
    if name == "relu":
        return score.clamp(min=0), (score > 0).to(score.dtype)
    if name == "sigmoid":
        value = torch.sigmoid(score)
        return value, value * (1 - value)
    if name == "tanh":
        value = torch.tanh(score)
        return value, 1 - value.square()
    below = 0.5 * torch.erfc(-score / math.sqrt(2))
    density = torch.exp(-0.5 * score.square()) / math.sqrt(2 * math.pi)
    return score * below, below + score * density


def scores(x: Tensor, beta1: Tensor) -> Tensor:
    """beta1_i·x: x [..., n, d], beta1 [..., k, d] -> [..., n, k]."""
    return x @ beta1.transpose(-1, -2)


def logits(score: Tensor, beta0: Tensor, tau: Tensor | None, gate: Gate) -> Tensor:
    """(phi(beta1_i·x) + beta0_i) / tau: score [..., n, k], beta0 [..., k], tau [...] -> [..., n, k]."""
    found = activate(score, gate.activation)[0] + beta0.unsqueeze(-2)
    return found if tau is None else found / tau[..., None, None]


def mask(score: Tensor, logit: Tensor, gate: Gate) -> Tensor | None:
    """True where an expert is among the K largest, bool [..., n, k]; None where all are."""
    experts = score.shape[-1]
    if gate.active is None or gate.active >= experts:
        return None
    ranked = score if gate.ranking == "slope" else logit
    order = ranked.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(ranked, dtype=torch.bool).scatter_(-1, order[..., : gate.active], True)


def log_gates(
    x: Tensor, beta1: Tensor, beta0: Tensor, gate: Gate, tau: Tensor | None = None
) -> Tensor:
    """log g_i(x) [..., n, k], -inf where an expert does not answer."""
    score = scores(x, beta1)
    logit = logits(score, beta0, tau, gate)
    kept = mask(score, logit, gate)
    if kept is not None:
        logit = logit.masked_fill(~kept, -torch.inf)
    return logit.log_softmax(-1)

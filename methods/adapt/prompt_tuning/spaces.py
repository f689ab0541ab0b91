"""Multi-space projection: a prompt seen in several subspaces, recombined by a gate.

*Fidelity.* A reconstruction, as `fusion` is: the abstract of 2405.11464 says that the prompt is projected into
several subspaces and that a gating network learns how to combine them for a task.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import gelu

Activation = Literal["gelu", "none"]
Gate = Literal["mean", "token", "static"]


def projected(prompt: Tensor, down: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """T_k(P) = P + φ(P D_k) U_k in each of K spaces: P [m, d], D [K, d, b], U [K, b, d] → [K, m, d].

    With U = 0 (as at the start) every T_k(P) is P.
    """
    inner = prompt @ down
    return prompt + (gelu(inner) if activation == "gelu" else inner) @ up


def gates(
    prompt: Tensor, weight: Tensor | None, bias: Tensor, temperature: float, kind: Gate
) -> Tensor:
    """g = softmax((W pool(P) + c)/τ): one row of K weights for the prompt [1, K], or for each token [m, K].

    weight: W [K, d], None where the gate is static; bias: c [K].
    """
    if kind == "static":
        logits = bias[None]
    else:
        pooled = prompt if kind == "token" else prompt.mean(0, keepdim=True)
        logits = pooled @ weight.T + bias
    return torch.softmax(logits / temperature, dim=-1)


def combined(views: Tensor, weights: Tensor) -> Tensor:
    """P* = Σ_k g_k T_k(P): views [K, m, d], weights [1 or m, K] → [m, d]."""
    return (weights.T[..., None] * views).sum(0)

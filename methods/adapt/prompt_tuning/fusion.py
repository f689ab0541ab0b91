"""Prompt fusion: the short prompt enriched by what the low-rank update holds.

*Fidelity.* A reconstruction. The abstract of 2405.11464 says that both the low-rank matrices and the short prompt
serve as knowledge sources for the short prompt, and cards about the paper name attention; the equations are in no
text or code that could be had.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Fusion = Literal["none", "cross_attention", "self_attention"]


def attended(
    queries: Tensor, sources: Tensor, query: Tensor | None = None, key: Tensor | None = None
) -> Tensor:
    """softmax(Q Kᵀ/√a) V with Q = queries·W_q, K = sources·W_k, V = sources: [m, d], [n, d] → [m, d].

    query, key: W_q, W_k [d, a]; None is the identity (a = d), which adds no parameter.
    """
    q = queries if query is None else queries @ query
    k = sources if key is None else sources @ key
    weights = torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1)
    return weights @ sources


def fused(
    prompt: Tensor,
    added: Tensor,
    kind: Fusion,
    scale: float = 1.0,
    query: Tensor | None = None,
    key: Tensor | None = None,
) -> Tensor:
    """P_f = P + β · attention, over U alone or over [P ; U]: prompt [m, d], U [s, d] → [m, d].

    With `cross_attention` and U = 0 (as at the start, where B = 0) P_f is P exactly.
    """
    if kind == "none":
        return prompt
    sources = added if kind == "cross_attention" else torch.cat([prompt, added])
    return prompt + scale * attended(prompt, sources, query, key)

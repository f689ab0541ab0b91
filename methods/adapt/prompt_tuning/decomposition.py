"""A soft prompt, decomposed into a shorter one and a low-rank update of the input embeddings (DePT, 2309.05173).

Everything here is a function of tensors; modules that hold the parameters stand in `prompts`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def scaling(alpha: float, rank: int) -> float:
    """γ = α/√r. In the published code only; the paper's equation has no such factor."""
    return alpha / math.sqrt(rank)


def update(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """U = γ A B, what is added to the embeddings by position: A [s, r], B [r, d] → [s, d]."""
    return scale * (a @ b)


def reconstructed(prompt: Tensor, embedded: Tensor, added: Tensor | None) -> Tensor:
    """[P ; E + U]: prompt [m, d], embeddings [b, s', d], U [s, d] with s ≥ s', or None → [b, m + s', d].

    A batch may be shorter than U: it uses U's first rows. (The published code stops with an error there.)
    """
    words = embedded.shape[1]
    if added is not None:
        embedded = embedded + added[:words].to(embedded.dtype)
    first = prompt.to(embedded.dtype).expand(len(embedded), *prompt.shape)
    return torch.cat([first, embedded], dim=1)


def affordable_rank(budget: int, tokens: int, length: int, width: int) -> int:
    """The largest r with m·d + r(s + d) ≤ l·d: what a prompt of `budget` tokens pays beside one of `tokens`.

    For l=100, d=768, s=256 and m=20, 40, 60, 80 this is 60, 45, 30, 15, where equality holds.
    """
    return (budget - tokens) * width // (length + width)


def parameters(tokens: int, rank: int, length: int, width: int) -> int:
    """m·d + r(s + d)."""
    return tokens * width + rank * (length + width)

"""The language-model space of TangleNAS: embedding, depth, and heads and MLP ratio of each block.

A GPT over bytes: a table of the 256 bytes, learned positions, blocks of causal attention and a
two-layer MLP with norms in front, a norm and a linear head.

*Fidelity.* The decisions are the paper's (one embedding and one depth for the network, heads and ratio
of each block). The head has weights of its own where the published code ties them to the table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from methods.search.choices import Choice
from methods.search.mixing import Attention

BYTES = 256


class FeedForward(nn.Module):
    """[n, T, d] to [n, T, d] through ``inner`` dimensions."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[n, T, d] to [n, T, d]."""
        return self.down(gelu(self.up(x)))


class Block(nn.Module):
    """Attention and MLP around the residual stream: [n, T, d] to [n, T, d]."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = FeedForward(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        """[n, T, d] to [n, T, d]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ByteGPT(nn.Module):
    """int64 bytes [n, T] to logits [n, T, 256], T at most ``length``."""

    def __init__(self, width: int, heads: int, inner: int, depth: int, length: int):
        super().__init__()
        self.bytes, self.positions = nn.Embedding(BYTES, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads, inner) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, BYTES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[n, T] to [n, T, 256]."""
        places = torch.arange(x.shape[1], device=x.device)
        return self.head(self.norm(self.blocks(self.bytes(x) + self.positions(places))))


def largest(
    embeddings: Sequence[int],
    heads: Sequence[int],
    ratios: Sequence[int | float],
    depths: Sequence[int],
    length: int,
) -> tuple[ByteGPT, dict[str, dict]]:
    """The largest network and its plan."""
    inner = int(max(embeddings) * max(ratios))
    network = ByteGPT(max(embeddings), 1, inner, max(depths), length)
    embedding, depth = Choice("embedding", tuple(embeddings)), Choice("depth", tuple(depths))
    plan: dict[str, dict] = {
        "bytes": {"width": embedding},
        "positions": {"width": embedding},
        "norm": {"width": embedding},
        "head": {"in": embedding},
    }
    for number in range(max(depths)):
        block = f"blocks.{number}"
        ratio = Choice(f"ratio.{number + 1}", tuple(ratios))
        plan |= {
            f"{block}.norm1": {"width": embedding},
            f"{block}.norm2": {"width": embedding},
            f"{block}.attention": {
                "heads": Choice(f"heads.{number + 1}", tuple(heads)),
                "width": embedding,
            },
            f"{block}.mlp.up": {"out": embedding * ratio, "in": embedding},
            f"{block}.mlp.down": {"out": embedding, "in": embedding * ratio},
        }
    return network, plan | {"blocks": {"depth": depth}}

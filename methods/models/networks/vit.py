"""A vision transformer: Dosovitskiy et al., 2010.11929, in the small sizes of DeiT (2012.12877).

Pre-norm blocks with separate query, key, value and output projections, so that what swaps attention
or quantises projections finds each by its own name:

    embedding.{patch, class_token, position}
    layers.N.{norm1, norm2}      layers.N.attention.{q_proj, k_proj, v_proj, o_proj}      layers.N.mlp.{0, 2}
    head.{norm, classifier}

*Fidelity.* From the papers: patches by a strided convolution, a class token, learned positions,
exact GELU, a norm before the classifier, weights from a normal of deviation 0.02 cut at two
deviations. Chosen: norms with eps 1e-6 as in DeiT's code; no dropout and no stochastic depth, which
small networks trained for minutes do not need; `pool: mean` has no class token and averages the
normalised tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Norm = partial(nn.LayerNorm, eps=1e-6)
STD = 0.02


class Embedding(nn.Module):
    """Patches, perhaps a class token before them, and learned positions.

    [n, channels, image, image] to [n, t, width]; t is the number of patches, plus 1 with the token.
    """

    def __init__(self, channels: int, image: int, patch: int, width: int, token: bool):
        super().__init__()
        self.patch = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if token else None
        self.position = nn.Parameter(torch.zeros(1, token + (image // patch) ** 2, width))

    def forward(self, x: Tensor) -> Tensor:
        """[n, c, h, w] to [n, t, width], in the dtype of the convolution."""
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            first = self.class_token.expand(len(x), -1, -1).to(tokens)
            tokens = torch.cat([first, tokens], 1)
        return tokens + self.position.to(tokens)


class Attention(nn.Module):
    """Softmax attention of all tokens over all tokens, [n, t, width] to the same."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, width] to [n, t, width]."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(mixed(q, k, v).transpose(1, 2).flatten(2))


def mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kT / sqrt(d)) v, each [n, heads, t, d]; in the dtype of ``q``.

    bfloat16 on a CPU is computed in float32: torch's gradient of attention takes four times as long
    in bfloat16 there.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


class Block(nn.Module):
    """Attention and a feed-forward part, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, ratio: float):
        super().__init__()
        self.norm1, self.norm2 = Norm(width), Norm(width)
        self.attention = Attention(width, heads)
        inner = int(width * ratio)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, width] to [n, t, width]."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Head(nn.Module):
    """Logits of the class token or of the mean over tokens: [n, t, width] to [n, classes]."""

    def __init__(self, width: int, classes: int, pool: Literal["token", "mean"]):
        super().__init__()
        self.pool = pool
        self.norm = Norm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, width] to [n, classes]."""
        return self.classifier(self.norm(x[:, 0]) if self.pool == "token" else self.norm(x).mean(1))


class VisionTransformer(nn.Module):
    """[n, channels, image, image] to logits [n, classes].

    image, patch: sides in pixels. ratio: inner width of the feed-forward part over ``width``.
    pool: what the classifier sees, the class `token` or the `mean` over the patches.
    Raises ValueError where ``patch`` does not divide ``image`` or ``heads`` the ``width``.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        image: int,
        patch: int = 4,
        width: int = 96,
        depth: int = 6,
        heads: int = 3,
        ratio: float = 4.0,
        pool: Literal["token", "mean"] = "token",
    ):
        super().__init__()
        if image % patch:
            raise ValueError(f"patch {patch} does not divide an image of {image} pixels")
        if width % heads:
            raise ValueError(f"heads {heads} do not divide the width {width}")
        self.embedding = Embedding(channels, image, patch, width, token=pool == "token")
        self.layers = nn.ModuleList(Block(width, heads, ratio) for _ in range(depth))
        self.head = Head(width, classes, pool)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=STD, a=-2 * STD, b=2 * STD)
                nn.init.zeros_(module.bias)
        for parameter in (self.embedding.position, self.embedding.class_token):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, std=STD, a=-2 * STD, b=2 * STD)

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, image, image] to [n, classes]."""
        for _, block in self.blocks():
            x = block(x)
        return x

    def blocks(self) -> list[tuple[str, nn.Module]]:
        """[(name, module)] whose composition is the forward pass."""
        inner = [(f"layers.{i}", block) for i, block in enumerate(self.layers)]
        return [("embedding", self.embedding), *inner, ("head", self.head)]

"""Entangled structure: operations that are chosen between, depth, and heads of attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.search.choices import Choice, Part, Size, size_in
from methods.search.layers import Sharing
from methods.search.mixture import Mixture
from methods.study.errors import RetrofitError, choices


class EntangledOps(nn.Module):
    """One of several operations: y = sum over groups of A_g op_g(x), A_g the group's whole weight.

    groups: `{name: module}`; each module plays the options in `parts[name]`, which share its weights
    through the layers that it contains. What does not share (a pooling, a skip) is a group of one.
    So options are told apart by name: their order in the choice means nothing.

    *Fidelity.* The published code hands a group's weights to the superposed operation as they are.
    Where a batch normalisation follows inside, as in the paper's cells, it takes their sum away: how
    much one group weighs against another then has no effect, and no gradient. Here the group's
    output is multiplied by A_g, and its slices are superposed with a_i / A_g.
    """

    def __init__(
        self,
        choice: Choice,
        groups: Mapping[str, nn.Module],
        parts: Mapping[str, Part],
        mixture: Mixture,
    ):
        super().__init__()
        played = [option for part in parts.values() for option in part.options]
        if sorted(map(str, played)) != sorted(map(str, choice.options)):
            missing = [option for option in choice.options if option not in played]
            raise RetrofitError(
                f"{choice.name}: operations and options do not match; "
                f"{choices(missing[0] if missing else played[0], choice.options)}"
            )
        self.choice, self.parts, self.mixture = choice, dict(parts), mixture
        self.groups = nn.ModuleDict(groups)
        self.sharing: Sharing = "entangled"

    @property
    def decisions(self) -> list[Choice]:
        """The one decision."""
        return [self.choice]

    def share(self, sharing: Sharing, generator: torch.Generator | None = None) -> None:
        """Mix outputs of every option for ``outputs``; the layers inside know of ``separate``."""
        self.sharing = sharing

    def forward(self, x: Tensor) -> Tensor:
        """The chosen operation, or the mixture."""
        chosen = self.mixture.chosen
        if chosen is not None:
            return self.groups[self._group(chosen)](x)
        total = None
        for name, part in self.parts.items():
            weights = self.mixture.inside(part)
            if self.sharing == "entangled" or len(part.options) == 1:
                y = weights.sum() * self.groups[name](x)
            else:
                y = sum(
                    weight * self._alone(name, part, option, x)
                    for weight, option in zip(weights, part.options, strict=True)
                )
            total = y if total is None else total + y
        return total

    def plain(self, architecture: Mapping[str, Any]) -> nn.Module:
        """The chosen group; its layers are made plain in turn."""
        return self.groups[self._group(architecture)]

    def _alone(self, name: str, part: Part, option: Any, x: Tensor) -> Tensor:
        with self.mixture.fixed(part, option):
            return self.groups[name](x)

    def _group(self, architecture: Mapping[str, Any]) -> str:
        option = architecture[self.choice.name]
        return next(name for name, part in self.parts.items() if option in part.options)


class EntangledDepth(nn.Module):
    """Blocks in a row, of which the first so many count: sum_d a_d x after block d.

    Raises RetrofitError for a depth that is no number of blocks.
    """

    def __init__(
        self, blocks: nn.Sequential, mixture: Mixture, depth: Choice, name: str = "blocks"
    ):
        super().__init__()
        for option in depth.options:
            if not isinstance(option, int) or not 1 <= option <= len(blocks):
                raise RetrofitError(
                    f"{name}: {depth.name} = {option!r}; there are {len(blocks)} blocks, allowed are "
                    f"1 to {len(blocks)}"
                )
        self.blocks, self.mixture, self.depth = blocks, mixture, depth

    @property
    def decisions(self) -> list[Choice]:
        """The one decision."""
        return [self.depth]

    def forward(self, x: Tensor) -> Tensor:
        """Of the chosen depth, or the mixture of all."""
        chosen = self.mixture.chosen
        if chosen is not None:
            for block in self.blocks[: chosen[self.depth.name]]:
                x = block(x)
            return x
        weights = self.mixture.of(self.depth)
        total = None
        for number, block in enumerate(self.blocks[: max(self.depth.options)], start=1):
            x = block(x)
            if number in self.depth.options:
                y = weights[self.depth.index(number)] * x
                total = y if total is None else total + y
        return total

    def plain(self, architecture: Mapping[str, Any]) -> nn.Sequential:
        """The first so many blocks."""
        return self.blocks[: architecture[self.depth.name]]


class Attention(nn.Module):
    """Multi-head self-attention with projections q, k, v, o: [n, T, d] to [n, T, d].

    heads: must divide the width of q. causal: token t sees no later one.
    """

    def __init__(self, width: int, heads: int, causal: bool = True, bias: bool = False):
        super().__init__()
        if width % heads:
            raise RetrofitError(f"{heads} heads do not divide an embedding of {width}")
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[n, T, d] to [n, T, d]."""
        return self.o(attend(self.q(x), self.k(x), self.v(x), self.heads, self.causal))


class EntangledAttention(nn.Module):
    """:class:`Attention` with choices of the heads and of the embedding they divide.

    y = sum_{e,h} a_e a_h Z(attention of the first e dimensions in h heads); weights stand outside the
    attention, once. Queries, keys and values are three layers, each sliced on its own.

    *Fidelity.* The published code packs q, k, v into one matrix and slices its first 3e rows, so the
    keys and values of a smaller embedding lie in the wrong third; it multiplies q, k and v each by
    the architecture weight, so logits by its square. Both are avoided.
    Raises RetrofitError where an option of heads does not divide one of the embedding.
    """

    def __init__(
        self,
        attention: Attention,
        mixture: Mixture,
        heads: Choice | None = None,
        embedding: Size | None = None,
        name: str = "attention",
    ):
        super().__init__()
        self.q, self.k, self.v, self.o = (getattr(attention, part) for part in "qkvo")
        self.causal, self.full = attention.causal, attention.q.out_features
        self.heads = heads or Choice(f"{name}.heads", (attention.heads,))
        self.embedding = embedding or Choice(f"{name}.embedding", (self.full,))
        self.mixture = mixture
        self.decisions = [choice for choice in (heads, embedding) if choice is not None]
        if len(self.embedding.choices) > 1:
            raise RetrofitError(f"{name}: the embedding of an attention has one choice")
        for h in self.heads.options:
            for e in self.embedding.options:
                if not isinstance(h, int) or h < 1 or e % h:
                    fitting = [
                        n for n in range(1, 17) if not any(w % n for w in self.embedding.options)
                    ]
                    raise RetrofitError(
                        f"{name}: {h} heads do not divide an embedding of {e}; "
                        f"what divides every embedding of {self.embedding.options}: {fitting}"
                    )

    def forward(self, x: Tensor) -> Tensor:
        """[n, T, d] to [n, T, d]."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        chosen = self.mixture.chosen
        if chosen is not None:
            return self.o(attend(q, k, v, self._heads(chosen), self.causal))
        a_h, a_e = self._weights(self.heads), self._weights(self.embedding)
        total = 0.0
        for i, e in enumerate(self.embedding.options):
            parts = [t[..., :e] for t in (q, k, v)]
            y = sum(
                a_h[j] * attend(*parts, h, self.causal) for j, h in enumerate(self.heads.options)
            )
            total = total + functional.pad(a_e[i] * y, (0, self.full - e))
        return self.o(total)

    def plain(self, architecture: Mapping[str, Any]) -> Attention:
        """The attention of a sub-network; its projections are made plain in turn."""
        e = size_in(self.embedding, {self.embedding.name: self.full, **architecture})
        layer = Attention(e, self._heads(architecture), self.causal)
        layer.q, layer.k, layer.v, layer.o = self.q, self.k, self.v, self.o
        return layer

    def _heads(self, architecture: Mapping[str, Any]) -> int:
        return architecture.get(self.heads.name, self.heads.options[0])

    def _weights(self, choice: Choice) -> Tensor:
        if any(choice is decided for decided in self.decisions):
            return self.mixture.of(choice)
        return torch.ones(1, device=next(self.parameters()).device)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
    """softmax(q k' / sqrt(d/heads)) v by head: three [n, T, d] to one."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return y.transpose(1, 2).flatten(2)

"""Softmax attention over a sliding window of keys, with or without sinks, at linear cost.

A query sees itself and the `window - 1` keys before it (Liger, 2503.01496, eq. 10), and the first
`sinks` tokens of its sequence wherever it stands (StreamingLLM, 2309.17453). Queries are taken in
blocks of the window's size, each against the two blocks of keys that it can see, so that no T x T
matrix exists.

*Fidelity.* The window counts the query itself, as the paper's equation does. The published code
hands 64 to a kernel for which that means 64 keys besides the query: `window=65` here is its result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

NEVER = -1.0e30
"""The score of a key that is not seen; finite, so that a row without any key is no NaN."""


@dataclass
class Keys:
    """Keys and values `[B, Hkv, n, d]`, with who may see them.

    valid: bool `[B, n]`, False for padding. document: int64 `[B, n]`; a query sees keys of its own
    document only. None stands for all valid, and for one document.
    """

    k: Tensor
    v: Tensor
    valid: Tensor | None = None
    document: Tensor | None = None


@dataclass
class Sinks:
    """The first tokens of each sequence: their keys, and where they stand among all tokens.

    keys: with n = number of sinks, `valid` False where a sequence has fewer.
    index: int64 `[B, n]`, of each sink on the axis on which the first past key stands at 0.
    """

    keys: Keys
    index: Tensor


def first_keys(keys: Keys, count: int) -> Sinks:
    """The first `count` valid tokens of each sequence, where `keys` is all there is of it."""
    batch, length = keys.k.shape[0], keys.k.shape[2]
    device = keys.k.device
    valid = keys.valid
    if valid is None:
        valid = torch.ones(batch, length, dtype=torch.bool, device=device)
    rank = torch.where(valid, valid.cumsum(1) - 1, -1)
    match = rank[:, None, :] == torch.arange(count, device=device)[None, :, None]
    index = match.int().argmax(-1)  # [B, count]
    at = index[:, None, :, None]
    k, v = (
        t.gather(2, at.expand(-1, t.shape[1], -1, t.shape[3])) for t in (keys.k, keys.v)
    )
    return Sinks(Keys(k, v, match.any(-1)), index)


@dataclass
class Scored:
    """What a softmax over the window needs: unnormalised, so that other terms can join it.

    weighted: sum over keys of exp(score - peak) v, `[B, H, T, d]`. mass: sum of exp(score - peak).
    peak: the row's largest score. mass and peak are `[B, H, T, 1]`. All float32.
    """

    weighted: Tensor
    mass: Tensor
    peak: Tensor

    @property
    def attention(self) -> Tensor:
        """The softmax attention output `[B, H, T, d]`."""
        return self.weighted / self.mass


def window_scores(
    q: Tensor,
    past: Keys | None,
    new: Keys,
    window: int,
    scale: float,
    sinks: Sinks | None = None,
) -> Scored:
    """Sums of the window softmax for T new queries.

    q: `[B, H, T, d]`, H a multiple of Hkv. past: the last keys before the new ones, at most `window`
    of them (fewer at the start); new: keys of the same T tokens.
    """
    batch, heads, length, width = q.shape
    kv = new.k.shape[1]
    behind = 0 if past is None else past.k.shape[2]
    size = window if length > 1 else 1
    front = max(size, window - 1) if length > 1 else behind
    blocks = -(-length // size)
    tail = blocks * size - length
    reach = front + size

    def lay(name: str, fill: float | bool | int) -> Tensor | None:
        """[padding, past, new, padding] along the tokens."""
        of_new = getattr(new, name)
        of_past = None if past is None else getattr(past, name)
        if of_new is None and of_past is None:
            return None
        tokens = -1 if of_new is not None and of_new.dim() == 2 else -2
        whole = of_new if of_past is None else torch.cat([of_past, of_new], tokens)
        if tokens == -1:
            return pad(whole, (front - behind, tail), value=fill)
        return pad(whole, (0, 0, front - behind, tail), value=fill)

    def banded(laid: Tensor, tokens: int) -> Tensor:
        """Overlapping stretches of `reach` tokens, one for each block of queries."""
        return laid.unfold(tokens, reach, size)

    k = banded(lay("k", 0.0), 2)  # [B, Hkv, N, d, reach]
    v = banded(lay("v", 0.0), 2)
    groups = heads // kv
    qb = pad(q, (0, 0, 0, tail)).unflatten(1, (kv, groups)).unflatten(3, (blocks, size))
    qb = qb.transpose(2, 3).flatten(3, 4)  # [B, Hkv, N, groups * size, d]
    scores = (qb @ k).float() * scale
    seen = _visible(past, new, lay, banded, front, behind, blocks, size, reach, window, q.device)
    seen = seen.unsqueeze(3).expand(-1, -1, -1, groups, -1, -1).flatten(3, 4)
    scores = scores.masked_fill(~seen, NEVER)
    values = v.mT
    if sinks is None:
        return _gather(scores, values, heads, length)
    return _with_sinks(scores, values, qb, sinks, window, scale, behind, size, groups, heads, length)


def _visible(
    past, new, lay, banded, front, behind, blocks, size, reach, window, device
) -> Tensor:
    """bool `[B or 1, 1, N, size, reach]`: which keys each query of each block sees."""
    row = torch.arange(size, device=device)[:, None] + front
    column = torch.arange(reach, device=device)[None, :]
    band = (column <= row) & (column > row - window)
    seen = band.expand(1, 1, blocks, size, reach)
    if front > behind:  # the padding before the first key
        start = torch.arange(blocks, device=device)[:, None] * size
        there = start + column >= front - behind
        seen = seen & there[None, None, :, None, :]
    filled = Keys(new.k, new.v, new.valid, new.document)
    if past is not None and (past.valid is None) != (new.valid is None):
        raise ValueError("past and new keys must both say which are valid, or neither")
    if filled.valid is not None:
        seen = seen & banded(lay("valid", False), 1)[:, None, :, None, :]
    if filled.document is not None:
        theirs = banded(lay("document", -1), 1)  # [B, N, reach]
        own = theirs[..., front : front + size]
        seen = seen & (own[..., :, None] == theirs[..., None, :])[:, None]
    return seen


def _gather(scores: Tensor, values: Tensor, heads: int, length: int) -> Scored:
    """Back from `[B, Hkv, N, groups * size, ·]` to `[B, H, T, ·]`."""
    peak = scores.detach().amax(-1, keepdim=True)
    weights = (scores - peak).exp()
    weighted = (weights.to(values.dtype) @ values).float()
    return _restore(weighted, weights.sum(-1, keepdim=True), peak, heads, length)


def _restore(weighted: Tensor, mass: Tensor, peak: Tensor, heads: int, length: int) -> Scored:
    kv = weighted.shape[1]

    def back(t: Tensor) -> Tensor:
        t = t.unflatten(3, (heads // kv, -1)).transpose(2, 3)
        return t.flatten(3, 4).flatten(1, 2)[:, :, :length]

    return Scored(back(weighted), back(mass), back(peak))


def _with_sinks(
    scores: Tensor,
    values: Tensor,
    qb: Tensor,
    sinks: Sinks,
    window: int,
    scale: float,
    behind: int,
    size: int,
    groups: int,
    heads: int,
    length: int,
) -> Scored:
    blocks = scores.shape[2]
    far = (qb @ sinks.keys.k.unsqueeze(2).mT).float() * scale  # [B, Hkv, N, groups * size, n]
    query = behind + torch.arange(blocks * size, device=qb.device).view(1, blocks, size, 1)
    # A sink inside of the window is an ordinary key there, and must not count twice.
    apart = sinks.index[:, None, None, :] <= query - window
    if sinks.keys.valid is not None:
        apart = apart & sinks.keys.valid[:, None, None, :]
    apart = apart.unsqueeze(1).unsqueeze(3).expand(-1, -1, -1, groups, -1, -1).flatten(3, 4)
    far = far.masked_fill(~apart, NEVER)
    peak = torch.maximum(scores.detach().amax(-1, True), far.detach().amax(-1, True))
    near_weights, far_weights = (scores - peak).exp(), (far - peak).exp()
    weighted = (near_weights.to(values.dtype) @ values).float()
    weighted = weighted + (far_weights.to(values.dtype) @ sinks.keys.v.unsqueeze(2)).float()
    mass = near_weights.sum(-1, keepdim=True) + far_weights.sum(-1, keepdim=True)
    return _restore(weighted, mass, peak, heads, length)

"""Softmax attention over a sliding window of keys, with or without sinks, at linear cost.

A query sees itself and the `window - 1` keys before it (Liger, 2503.01496, eq. 10), and the first
`sinks` tokens of its sequence wherever it stands (StreamingLLM, 2309.17453). Queries are taken in
blocks of the window's size, each against the two blocks of keys that it can see, so that no T x T
matrix exists.

*Fidelity.* The window counts the query itself, as the paper's equation does. The published code
hands 64 to a kernel for which that means 64 keys besides the query: `window=65` here is its result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

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
    k, v = (t.gather(2, at.expand(-1, t.shape[1], -1, t.shape[3])) for t in (keys.k, keys.v))
    return Sinks(Keys(k, v, match.any(-1)), index)


@dataclass
class Band:
    """Blocks of queries, each with the keys that it may see.

    q: `[B * N, Hkv, G * C, d]`; k, v: `[B * N, Hkv, R, d]`; mask: float, 0 or NEVER, `[·, 1, G * C, R]`
    in the dtype of q. restore: from `[B * N, Hkv, G * C, ·]` to `[B, H, T, ·]`.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor
    restore: Callable[[Tensor], Tensor]


def window_attention(
    q: Tensor,
    past: Keys | None,
    new: Keys,
    window: int,
    scale: float,
    sinks: Sinks | None = None,
) -> Tensor:
    """Softmax attention of T new queries over their windows: `[B, H, T, d]` in the queries' dtype.

    q: `[B, H, T, d]`, H a multiple of Hkv. past: the last keys before the new ones, at most `window`
    of them (fewer at the start); new: keys of the same T tokens.
    """
    band = _band(q, past, new, window, sinks)
    out = scaled_dot_product_attention(band.q, band.k, band.v, band.mask, scale=scale)
    return band.restore(out)


def window_mass(
    q: Tensor, past: Keys | None, new: Keys, window: int, scale: float
) -> tuple[Tensor, Tensor]:
    """The attention as above in float32, and sum over keys of exp(score - the largest score of the
    row), `[B, H, T, 1]`: what is needed to join other terms in one normalisation.
    """
    band = _band(q, past, new, window, None)
    scores = (band.q @ band.k.mT).float() * scale + band.mask.float()
    mass = (scores.logsumexp(-1, keepdim=True) - scores.detach().amax(-1, keepdim=True)).exp()
    out = (scores.softmax(-1).to(band.v.dtype) @ band.v).float()
    return band.restore(out), band.restore(mass)


def _band(q: Tensor, past: Keys | None, new: Keys, window: int, sinks: Sinks | None) -> Band:
    batch, heads, length = q.shape[:3]
    kv = new.k.shape[1]
    groups = heads // kv
    behind = 0 if past is None else past.k.shape[2]
    size = min(window, length)
    front = max(behind, window - 1)
    blocks = -(-length // size)
    tail = blocks * size - length
    reach = front + size

    def lay(name: str, fill: bool | int) -> Tensor | None:
        """[padding, past, new, padding] along the tokens, `[B, …, tokens, …]`."""
        parts = [getattr(keys, name) for keys in (past, new) if keys is not None]
        if parts[-1] is None:
            return None
        axis = 1 if parts[-1].dim() == 2 else 2
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, axis)
        edges = (front - behind, tail)
        return pad(whole, edges if axis == 1 else (0, 0, *edges), value=fill)

    def blocked(laid: Tensor) -> Tensor:
        """Overlapping stretches of `reach` tokens, one for each block: `[B * N, Hkv, reach, d]`."""
        return laid.unfold(2, reach, size).permute(0, 2, 1, 4, 3).flatten(0, 1)

    def restore(out: Tensor) -> Tensor:
        out = out.unflatten(0, (batch, blocks)).unflatten(3, (groups, size))
        return out.permute(0, 2, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)[:, :, :length]

    k, v = blocked(lay("k", 0)), blocked(lay("v", 0))
    qb = pad(q, (0, 0, 0, tail)).unflatten(1, (kv, groups)).unflatten(3, (blocks, size))
    qb = qb.permute(0, 3, 1, 2, 4, 5).flatten(3, 4).flatten(0, 1)
    seen = _seen(lay, front, behind, blocks, size, reach, window, q.device)
    if sinks is not None:
        query = behind + torch.arange(blocks * size, device=q.device).view(1, blocks, size, 1)
        # A sink inside of the window is an ordinary key there, and must not count twice.
        apart = (sinks.index[:, None, None] <= query - window) & sinks.keys.valid[:, None, None]
        seen = torch.cat([seen.expand(batch, -1, -1, -1), apart], -1)
        more = (t.repeat_interleave(blocks, 0) for t in (sinks.keys.k, sinks.keys.v))
        k, v = (torch.cat([own, other], 2) for own, other in zip((k, v), more, strict=True))
    # Masks of all blocks, or of every sequence's, repeated for the heads of a group.
    seen = (
        seen.expand(batch, -1, -1, -1).flatten(0, 1)[:, None, None].expand(-1, -1, groups, -1, -1)
    )
    mask = torch.zeros(1, dtype=q.dtype, device=q.device).masked_fill(~seen.flatten(2, 3), NEVER)
    return Band(qb, k, v, mask, restore)


def _seen(
    lay: Callable[[str, bool | int], Tensor | None],
    front: int,
    behind: int,
    blocks: int,
    size: int,
    reach: int,
    window: int,
    device: torch.device,
) -> Tensor:
    """bool `[B or 1, N, size, reach]`: which keys each query of each block sees."""
    row = torch.arange(size, device=device)[:, None] + front
    column = torch.arange(reach, device=device)[None, :]
    seen = ((column <= row) & (column > row - window))[None, None]
    start = torch.arange(blocks, device=device)[:, None] * size
    seen = seen & (start + column >= front - behind)[None, :, None]  # padding before the first key
    valid, document = lay("valid", False), lay("document", -1)
    if valid is not None:
        seen = seen & valid.unfold(1, reach, size)[:, :, None]
    if document is not None:
        theirs = document.unfold(1, reach, size)  # [B, N, reach]
        own = theirs[..., front : front + size]
        seen = seen & (own[..., :, None] == theirs[..., None, :])
    return seen

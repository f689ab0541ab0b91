"""Gated linear recurrences in three forms that agree: step by step, in parallel, and in chunks.

With log gates l (at most 0), keys k, values v and queries q, all `[B, H, T, ·]`:

    S_t = diag(exp l_t) S_{t-1} + k_t^T v_t        o_t = q_t S_t

`side="key"` lets the gate decay the key dimension of S `[K, V]` (GLA, HGRN2, RWKV6; a gate of width
1 decays all of it: Mamba2, mLSTM, retention); `side="value"` decays the value dimension, which gated
slot attention needs for its first pass. Keys, values, gates and states may have fewer heads than the
queries, each shared by a group of query heads next to each other: what they share is computed once.

`recurrent` is the definition; `parallel` is the closed form and overflows for long or hard-gated
sequences; `chunked` is what training runs. `step` is one token.

*Numerics.* With b the running sum of l inside a chunk, a pair (t, s) is weighted by
exp(b_t - b_s). Factored as exp(b_t - r) exp(r - b_s), with r at the start of the chunk, it is two
matrix products; its factors stay inside float32 while b falls by less than `SAFE` in a chunk. Where
it falls further, chunks of a block's size do; where even these are too long, a chunk is cut into
blocks: pairs of different blocks take r at the start of the later one, so that both exponents are at
most 0, and pairs within a block take their differences one by one, masked before the exponential.
Everything is float32, whatever the inputs are.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from methods.study.errors import RetrofitError

Side = Literal["key", "value"]
CHUNK = 64
BLOCK = 16
SAFE = 60.0
"""exp(60) and exp(-60), times features of any sane size, are float32 numbers."""
FORGET = -40.0
"""A log gate that empties the state: what is left is 1e-17 of it."""


def _checked(q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor | None, side: Side) -> list[Tensor]:
    """q `[B, H, G, T, K]`, k, v and the log gate `[B, H, T, ·]` in float32, G query heads on each
    head of the keys; raises RetrofitError where shapes do not fit.
    """
    fits = q.dim() == k.dim() == v.dim() == 4 and k.shape[:3] == v.shape[:3]
    if (
        not fits
        or q.shape[0] != k.shape[0]
        or q.shape[2:] != k.shape[2:]
        or q.shape[1] % k.shape[1]
    ):
        raise RetrofitError(
            "a recurrence takes q [B, H, T, K], k [B, H or a divisor, T, K] and v likewise, found "
            f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if log_gate is None:
        log_gate = k.new_zeros(1, 1, 1, 1).expand(*k.shape[:3], 1)
    width = (k if side == "key" else v).shape[-1]
    if log_gate.shape[-1] not in (1, width) or log_gate.shape[:3] != k.shape[:3]:
        raise RetrofitError(
            f"log gates must be {(*k.shape[:3], width)} or {(*k.shape[:3], 1)}, "
            f"found {tuple(log_gate.shape)}"
        )
    q = q.unflatten(1, (k.shape[1], -1))
    return [t.float() for t in (q, k, v, log_gate)]


def _empty(k: Tensor, v: Tensor) -> Tensor:
    return k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])


def _decay(gate: Tensor, side: Side) -> Tensor:
    """exp(log gate) `[..., W]` in the shape that multiplies a state `[..., K, V]`."""
    return gate.exp().unsqueeze(-1 if side == "key" else -2)


def step(
    q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor | None, state: Tensor, side: Side = "key"
) -> Tensor:
    """The output `[B, H, V]` of one token, float32; updates `state` `[B, Hk, K, V]` in place.

    q: `[B, H, K]`; k: `[B, Hk, K]`; v: `[B, Hk, V]`; log_gate: `[B, Hk, K or V or 1]`, or None.
    """
    if log_gate is not None:
        state.mul_(_decay(log_gate.float(), side))
    state.add_(k.float().unsqueeze(-1) * v.float().unsqueeze(-2))
    return (q.float().unflatten(1, (k.shape[1], -1)) @ state).flatten(1, 2)


def recurrent(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None = None,
    state: Tensor | None = None,
    side: Side = "key",
) -> tuple[Tensor, Tensor]:
    """The definition, a token at a time: outputs `[B, H, T, V]` and the last state, float32."""
    q, k, v, gate = _checked(q, k, v, log_gate, side)
    state = _empty(k, v) if state is None else state.float()
    outputs = []
    for t in range(k.shape[2]):
        state = state * _decay(gate[:, :, t], side) + k[:, :, t, :, None] * v[:, :, t, None]
        outputs.append(q[:, :, :, t] @ state)
    return torch.stack(outputs, 3).flatten(1, 2), state


def parallel(q: Tensor, *inputs: Tensor | None, side: Side = "key") -> tuple[Tensor, Tensor]:
    """All pairs at once, weighted by exp(b_t) exp(-b_s): correct while the sum of |l| is below 80.

    Takes what `recurrent` takes.
    """
    return chunked(q, *inputs, side=side, chunk=q.shape[2], block=1, factored=True)


def chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None = None,
    state: Tensor | None = None,
    side: Side = "key",
    chunk: int = CHUNK,
    block: int = BLOCK,
    factored: bool = False,
) -> tuple[Tensor, Tensor]:
    """Chunk by chunk: outputs `[B, H, T, V]` and the last state `[B, Hk, K, V]`, float32.

    Work is linear in T and vectorised over batch, heads and chunks; only the hand-over of the state
    goes from chunk to chunk. Any T. `block` must divide `chunk`. factored: whatever the gates are.
    """
    q, k, v, gate = _checked(q, k, v, log_gate, side)
    if chunk < 1 or block < 1 or chunk % block:
        raise RetrofitError(f"chunks of {chunk} cannot be cut into blocks of {block}")
    length = k.shape[2]
    chunk = min(chunk, -(-length // block) * block)
    filler = -length % chunk
    if filler:  # empty keys, and gates of 1, change neither outputs nor state
        q, k, v, gate = (pad(t, (0, 0, 0, filler)) for t in (q, k, v, gate))
    pairs = _pairs_factored
    if not factored and _falls(gate, chunk) > SAFE:
        if _falls(gate, block) > SAFE:
            pairs = _pairs_in_blocks
        else:
            chunk = block
    k, v, gate = (t.unflatten(2, (-1, chunk)) for t in (k, v, gate))
    q = q.unflatten(3, (-1, chunk)).transpose(2, 3)  # [B, Hk, N, G, C, K]
    decay = gate.cumsum(3)
    total = decay[:, :, :, -1:]

    # What each chunk adds to the state, decayed to the chunk's end.
    left = (total - decay).exp()
    added = (k * left).mT @ v if side == "key" else k.mT @ (v * left)
    carry = _decay(total.squeeze(3), side)
    state = _empty(k[:, :, 0], v[:, :, 0]) if state is None else state.float()
    before = []
    for n in range(k.shape[2]):
        before.append(state)
        state = torch.addcmul(added[:, :, n], state, carry[:, :, n])
    outputs = pairs(q, k, v, decay, side, block, torch.stack(before, 2))
    return outputs.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :, :length], state


@torch.no_grad()
def _falls(gate: Tensor, size: int) -> float:
    """How far the running sum falls at most within a stretch of `size` tokens."""
    return -float(gate.unflatten(2, (-1, size)).sum(3).amin())


def _causal(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).tril()


def _times(q: Tensor, other: Tensor) -> Tensor:
    """q `[..., G, C, K]` times `[..., K, X]`, the same for all of a group, as one product."""
    return (q.flatten(-3, -2) @ other).unflatten(-2, q.shape[-3:-1])


def _pairs_factored(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, side: Side, _: int, entering: Tensor
) -> Tensor:
    """Outputs of a chunk: what entered it, and sum over s <= t of (q_t . k_s) v_s, decayed.

    The reference of all decays is the chunk's start.
    """
    mask = _causal(k.shape[-2], q.device)
    fall = decay.exp().unsqueeze(-3)
    if side == "key":
        q = q * fall
        scores = _times(q, (k * (-decay).exp()).mT).masked_fill(~mask, 0.0)
        return _times(scores, v) + _times(q, entering)
    scores = _times(q, k.mT).masked_fill(~mask, 0.0)
    return (_times(scores, v * (-decay).exp()) + _times(q, entering)) * fall


def _pairs_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, side: Side, block: int, entering: Tensor
) -> Tensor:
    """As `_pairs_factored`, for gates of any hardness: no exponent is ever above 0."""
    mask = _causal(block, q.device)
    parts = []
    for start in range(0, k.shape[-2], block):
        rows = slice(start, start + block)
        qi = q[..., rows, :]
        ki, vi, bi = (t[..., rows, :] for t in (k, v, decay))
        # exp of a masked difference would overflow, and its gradient be NaN.
        away = bi.unsqueeze(-2) - bi.unsqueeze(-3)  # [..., t, s, W]
        near = away.masked_fill(~mask[..., None], -torch.inf).exp().unsqueeze(-4)
        fall = bi.exp().unsqueeze(-3)
        if side == "key":
            scores = (qi.unsqueeze(-2) * ki[..., None, None, :, :] * near).sum(-1)
            out = _times(scores, vi) + _times(qi * fall, entering)
        else:
            scores = _times(qi, ki.mT).unsqueeze(-1)
            out = (scores * near * vi[..., None, None, :, :]).sum(-2) + _times(qi, entering) * fall
        if start:
            reference = decay[..., start - 1 : start, :]
            late = (bi - reference).exp().unsqueeze(-3)
            early = (reference - decay[..., :start, :]).exp()
            if side == "key":
                scores = _times(qi * late, (k[..., :start, :] * early).mT)
                out = out + _times(scores, v[..., :start, :])
            else:
                far = _times(_times(qi, k[..., :start, :].mT), v[..., :start, :] * early)
                out = out + far * late
        parts.append(out)
    return torch.cat(parts, -2)


def slots(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slot: Tensor,
    log_gate: Tensor,
    states: tuple[Tensor, Tensor] | None = None,
    form=chunked,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Gated slot attention: two passes over M slots; outputs `[B, H, T, V]` and both states.

    K_t = K_{t-1} diag(e^l) + k_t^T s_t;  p_t = softmax(q_t K_t);
    V_t = diag(e^l) V_{t-1} + s_t^T v_t;  o_t = p_t V_t.
    slot, log_gate: `[B, Hk, T, M]`. states: `[B, Hk, K, M]` and `[B, Hk, M, V]`. form: any of the
    three of this module. Zhang et al., 2409.07146.
    """
    first, second = states or (None, None)
    scores, first = form(q, k, slot, log_gate, first, side="value")
    out, second = form(scores.softmax(-1), slot, v, log_gate, second)
    return out, (first, second)

"""Gated linear recurrences in three forms that agree: step by step, in parallel, and in chunks.

With log gates l (at most 0), keys k, values v and queries q, all `[B, H, T, ·]`:

    S_t = diag(exp l_t) S_{t-1} + k_t^T v_t        o_t = q_t S_t

`side="key"` lets the gate decay the key dimension of S `[K, V]` (GLA, HGRN2, RWKV6; a gate of width
1 decays all of it: Mamba2, mLSTM, retention); `side="value"` decays the value dimension, which gated
slot attention needs for its first pass. `recurrent` is the definition; `parallel` is the closed form
and overflows for long or hard-gated sequences; `chunked` is what training runs. `step` is one token.

*Numerics.* With b the running sum of l inside a chunk, a pair (t, s) is weighted by
exp(b_t - b_s). Factored as exp(b_t - r) exp(r - b_s), with r at the start of the chunk, it is two
matrix products; its factors stay inside float32 while b falls by less than `SAFE` in a chunk. Where
it falls further the chunk is cut into blocks: pairs of different blocks take r at the start of the
later one, so that both exponents are at most 0, and pairs within a block take their differences one
by one, masked before the exponential. Everything is float32, whatever the inputs are.
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
FORGET = -100.0
"""A log gate that empties the state: exp(-100) is below float32's smallest number over features."""


def _checked(q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor | None, side: Side) -> list[Tensor]:
    """q, k, v and the log gate in float32; raises RetrofitError where shapes do not fit."""
    if q.shape != k.shape or k.shape[:3] != v.shape[:3]:
        raise RetrofitError(
            "a recurrence takes q and k [B, H, T, K] and v [B, H, T, V], found "
            f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    width = (k if side == "key" else v).shape[-1]
    if log_gate is None:
        log_gate = q.new_zeros(1, 1, 1, 1).expand(*q.shape[:3], 1)
    if log_gate.shape[-1] not in (1, width) or log_gate.shape[:3] != q.shape[:3]:
        raise RetrofitError(
            f"log gates must be {(*q.shape[:3], width)} or {(*q.shape[:3], 1)}, "
            f"found {tuple(log_gate.shape)}"
        )
    return [t.float() for t in (q, k, v, log_gate)]


def _empty(k: Tensor, v: Tensor) -> Tensor:
    return k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])


def _decay(gate: Tensor, side: Side) -> Tensor:
    """exp(log gate) `[..., G]` in the shape that multiplies a state `[..., K, V]`."""
    return gate.exp().unsqueeze(-1 if side == "key" else -2)


def step(
    q: Tensor, k: Tensor, v: Tensor, log_gate: Tensor | None, state: Tensor, side: Side = "key"
) -> Tensor:
    """The output `[B, H, V]` of one token, float32; updates `state` `[B, H, K, V]` in place.

    q, k: `[B, H, K]`; v: `[B, H, V]`; log_gate: `[B, H, K or V or 1]`, or None for no decay.
    """
    if log_gate is not None:
        state.mul_(_decay(log_gate.float(), side))
    state.add_(k.float().unsqueeze(-1) * v.float().unsqueeze(-2))
    return (q.float().unsqueeze(-2) @ state).squeeze(-2)


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
    for t in range(q.shape[2]):
        state = state * _decay(gate[:, :, t], side) + k[:, :, t, :, None] * v[:, :, t, None]
        outputs.append((q[:, :, t, None] @ state).squeeze(-2))
    return torch.stack(outputs, 2), state


def parallel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None = None,
    state: Tensor | None = None,
    side: Side = "key",
) -> tuple[Tensor, Tensor]:
    """All pairs at once, weighted by exp(b_t) exp(-b_s): correct while the sum of |l| is below 80."""
    q, k, v, gate = _checked(q, k, v, log_gate, side)
    state = _empty(k, v) if state is None else state.float()
    return _chunk_factored(q, k, v, gate.cumsum(2), state, side)


def chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_gate: Tensor | None = None,
    state: Tensor | None = None,
    side: Side = "key",
    chunk: int = CHUNK,
    block: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """Chunk by chunk: outputs `[B, H, T, V]` and the last state `[B, H, K, V]`, float32.

    Work is linear in T and vectorised over batch, heads and chunks; only the hand-over of the state
    goes from chunk to chunk. Any T. `block` must divide `chunk`.
    """
    q, k, v, gate = _checked(q, k, v, log_gate, side)
    if chunk < 1 or block < 1 or chunk % block:
        raise RetrofitError(f"chunks of {chunk} cannot be cut into blocks of {block}")
    length = q.shape[2]
    chunk = min(chunk, -(-length // block) * block)
    filler = -length % chunk
    if filler:  # empty keys, and gates of 1, change neither outputs nor state
        q, k, v, gate = (pad(t, (0, 0, 0, filler)) for t in (q, k, v, gate))
    q, k, v, gate = (t.unflatten(2, (-1, chunk)) for t in (q, k, v, gate))
    decay = gate.cumsum(3)
    total = decay[:, :, :, -1:]
    hard = bool((total < -SAFE).any())
    pairs = _pairs_in_blocks if hard else _pairs_factored
    outputs = pairs(q, k, v, decay, side, block)

    # What each chunk adds to the state, decayed to the chunk's end.
    left = (total - decay).exp()
    added = (k * left).mT @ v if side == "key" else k.mT @ (v * left)
    carry = _decay(total.squeeze(3), side)
    state = _empty(k[:, :, 0], v[:, :, 0]) if state is None else state.float()
    before = []
    for n in range(q.shape[2]):
        before.append(state)
        state = state * carry[:, :, n] + added[:, :, n]
    entering = torch.stack(before, 2)
    if side == "key":
        outputs = outputs + (q * decay.exp()) @ entering
    else:
        outputs = outputs + (q @ entering) * decay.exp()
    return outputs.flatten(2, 3)[:, :, :length], state


def _causal(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).tril()


def _pairs_factored(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, side: Side, _: int) -> Tensor:
    """sum over s <= t in a chunk of (q_t . k_s) v_s, decayed; reference at the chunk's start."""
    mask = _causal(q.shape[-2], q.device)
    if side == "key":
        scores = (q * decay.exp()) @ (k * (-decay).exp()).mT
        return scores.masked_fill(~mask, 0.0) @ v
    scores = (q @ k.mT).masked_fill(~mask, 0.0)
    return (scores @ (v * (-decay).exp())) * decay.exp()


def _chunk_factored(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor, side: Side
) -> tuple[Tensor, Tensor]:
    outputs = _pairs_factored(q, k, v, decay, side, 0)
    total = decay[:, :, -1:]
    if side == "key":
        outputs = outputs + (q * decay.exp()) @ state
        added = (k * (total - decay).exp()).mT @ v
    else:
        outputs = outputs + (q @ state) * decay.exp()
        added = k.mT @ (v * (total - decay).exp())
    return outputs, state * _decay(total.squeeze(2), side) + added


def _pairs_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, side: Side, block: int
) -> Tensor:
    """As `_pairs_factored`, for gates of any hardness: no exponent is ever above 0."""
    starts = range(0, q.shape[-2], block)
    mask = _causal(block, q.device)
    parts = []
    for start in starts:
        rows = slice(start, start + block)
        qi, ki, vi, bi = (t[..., rows, :] for t in (q, k, v, decay))
        # exp of a masked difference would overflow, and its gradient be NaN.
        away = bi.unsqueeze(-2) - bi.unsqueeze(-3)  # [..., t, s, G]
        near = away.masked_fill(~mask[..., None], -torch.inf).exp()
        if side == "key":
            scores = (qi.unsqueeze(-2) * ki.unsqueeze(-3) * near).sum(-1)
            out = scores @ vi
        else:
            scores = (qi @ ki.mT).unsqueeze(-1)
            out = (scores * near * vi.unsqueeze(-3)).sum(-2)
        if start:
            reference = decay[..., start - 1 : start, :]
            late = (bi - reference).exp()
            early = (reference - decay[..., :start, :]).exp()
            if side == "key":
                out = out + ((qi * late) @ (k[..., :start, :] * early).mT) @ v[..., :start, :]
            else:
                far = (qi @ k[..., :start, :].mT) @ (v[..., :start, :] * early)
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
    slot, log_gate: `[B, H, T, M]`. states: `[B, H, K, M]` and `[B, H, M, V]`. form: any of the
    three of this module. Zhang et al., 2409.07146.
    """
    first, second = states or (None, None)
    scores, first = form(q, k, slot, log_gate, first, side="value")
    out, second = form(scores.softmax(-1), slot, v, log_gate, second)
    return out, (first, second)

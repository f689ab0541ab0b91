"""The gates of Liger (Lan et al., 2503.01496, Table 1) as data: what decays, by how much, from what.

Every structure turns gate logits g (the pooled keys of the pretrained model; no new parameter) into
log gates l <= 0 of the recurrence, and says which features the queries and keys of the recurrence
are. Which projection the logits come from, how they are pooled, and the `normalizer` that divides the
log gate are parameters.

*Fidelity.* GLA, HGRN2 and GSA follow the published code: its pooling to the size that is already
there is the identity, so the logit is the key before its rotation; its gates are
sigmoid(g)^(1/16) for GLA and GSA (the paper has no exponent) and sigmoid(g) for HGRN2. Mamba2, mLSTM,
gated retention and RWKV6 are in the paper's table but not in its code: a scalar gate is taken from
the mean of a head's logits, and the normalizer of 16 is ours, because without one an untrained model
forgets within two tokens (at g = 0 the gate is 0.5, for RWKV6 0.37). `none` is plain linear
attention; `retention` has RetNet's constants, an extension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from methods.study.errors import RetrofitError, choices


@dataclass(frozen=True)
class Structure:
    """One row of the table.

    log_gate: from logits `[..., K]` (or `[..., 1]` where scalar, `[..., M]` for slots) to log gates
    of the same shape, before the normalizer; None: no gate. shape: what decays. query, key: features
    of the recurrence ("gate": one minus the gate, tied as in HGRN2). normalizer: the default.
    """

    log_gate: Callable[[Tensor], Tensor] | None
    shape: Literal["key", "head", "slot"]
    query: Literal["softmax", "raw"] = "softmax"
    key: Literal["softmax", "raw", "gate"] = "softmax"
    normalizer: float = 16.0


STRUCTURES: dict[str, Structure] = {
    "gla": Structure(logsigmoid, "key"),
    "hgrn2": Structure(logsigmoid, "key", key="gate", normalizer=1.0),
    "gsa": Structure(logsigmoid, "slot", query="raw", key="raw"),
    "mamba2": Structure(lambda g: -softplus(g), "head"),
    "mlstm": Structure(logsigmoid, "head"),
    "gated_retention": Structure(logsigmoid, "head"),
    "rwkv6": Structure(lambda g: -torch.exp(g), "key"),
    "none": Structure(None, "head"),
    "retention": Structure(None, "head"),
}


def structure(name: str) -> Structure:
    """The row of that name; RetrofitError with the nearest one."""
    if name not in STRUCTURES:
        raise RetrofitError(f"there is no gate '{name}'; {choices(name, STRUCTURES)}")
    return STRUCTURES[name]


def pool(logits: Tensor, size: int | None) -> Tensor:
    """Average neighbours so that all heads together have `heads * size` logits; None: as they are.

    logits: `[B, heads, T, d]`; result `[B, heads, T, size]`. As in the published code the average
    runs over the heads' channels laid side by side.
    """
    if size is None or size == logits.shape[-1]:
        return logits
    heads = logits.shape[1]
    flat = logits.transpose(1, 2).flatten(2)
    pooled = torch.nn.functional.adaptive_avg_pool1d(flat, heads * size)
    return pooled.unflatten(2, (heads, size)).transpose(1, 2)


def log_gates(
    name: str, logits: Tensor, normalizer: float | None = None, lower_bound: float = 0.0
) -> Tensor | None:
    """Log gates, float32, `[B, H, T, K]`, `[B, H, T, 1]` or `[B, H, T, M]`; None where none is asked.

    logits: `[B, H, T, ·]`, pooled. lower_bound: gamma of HGRN2, the gate is gamma + (1 - gamma) a.
    """
    row = structure(name)
    if name == "retention":
        return retention_decay(logits.shape[1], logits.device).expand(*logits.shape[:3], 1)
    if row.log_gate is None:
        return None
    logits = logits.float()
    if row.shape == "head":
        logits = logits.mean(-1, keepdim=True)
    gate = row.log_gate(logits) / (row.normalizer if normalizer is None else normalizer)
    if lower_bound:
        gate = torch.log(lower_bound + (1 - lower_bound) * gate.exp())
    return gate


def retention_decay(heads: int, device: torch.device | None = None) -> Tensor:
    """RetNet's log decay of each head, log(1 - 2^(-5-h)): `[1, heads, 1, 1]` (2307.08621, eq. 8)."""
    h = torch.arange(heads, dtype=torch.float32, device=device)
    return torch.log1p(-torch.pow(2.0, -5.0 - h)).view(1, heads, 1, 1)


def tied_key(log_gate: Tensor) -> Tensor:
    """1 - gate: the key that HGRN2 ties to its gate."""
    return -torch.expm1(log_gate)

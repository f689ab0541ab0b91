"""The tangent kernel of the recurrent weights, K = J J', J = d y[t, b, k] / d W_h, without J.

By the chain rule  J[(t,b,k)] = a sum_s delta_s[(t,b,k)] h_{s-1}[b]',  delta_s = d y / d (argument of relu at s), so

    K[(t,b,k), (u,c,l)] = a^2 sum_{s, s'} (delta_s[(t,b,k)] . delta_s'[(u,c,l)]) (h_{s-1}[b] . h_{s'-1}[c])

which is made and used up in blocks of samples: neither J (rows by N^2) nor, for alignments, K (rows by rows) is ever
whole in memory.  Fidelity: K is uncentred and of W_h alone, over all outputs at the steps that are read, as in the
published code, which loops over outputs with one backward pass each.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from methods.dynamics.rich_lazy.network import Weights, states
from methods.study.errors import RetrofitError

BLOCK_BYTES = 32_000_000
"""What one block of a kernel may take, for all networks of a call together."""


class _Factors:
    """h [M, T, batch, N] and deltas {s: [M, batch, J_s, N]}, J_s outputs of steps >= s, last step first."""

    def __init__(self, weights: Weights, x: Tensor, alpha: float, read: int):
        h = states(weights, x, alpha)
        members, steps, batch, size = h.shape
        self.alpha, self.outputs = alpha, weights.w_out.shape[1]
        self.columns = self.outputs * read
        self.deltas: dict[int, Tensor] = {}
        self.h = h
        back = h.new_empty(members, batch, 0, size)
        for s in range(steps - 1, 0, -1):  # at s = 0 the state before is zero
            if s >= steps - read:
                own = weights.w_out[:, None].expand(members, batch, self.outputs, size)
                back = torch.cat([back, own], 2)
            delta = back * (h[:, s] > 0)[:, :, None]
            self.deltas[s] = delta
            through = torch.bmm(delta.flatten(1, 2), weights.w_h).view_as(delta)
            back = alpha * through if alpha == 1.0 else alpha * through + (1.0 - alpha) * delta

    def block(self, rows: slice) -> Tensor:
        """K of some samples against all: [M, rows, J, batch, J]."""
        members, batch = self.h.shape[0], self.h.shape[2]
        count = len(range(batch)[rows])
        found = self.h.new_zeros(members, count, self.columns, batch, self.columns)
        for s, left in self.deltas.items():
            flat = left[:, rows].flatten(1, 2)
            for u, right in self.deltas.items():
                overlap = torch.bmm(self.h[:, s - 1, rows], self.h[:, u - 1].mT)
                made = torch.bmm(flat, right.flatten(1, 2).mT)
                made = made.view(members, count, left.shape[2], batch, right.shape[2])
                part = found[:, :, : left.shape[2], :, : right.shape[2]]
                part.addcmul_(made, overlap[:, :, None, :, None])
        return found.mul_(self.alpha**2)


def kernel_products(
    networks: list[Weights],
    x: Tensor,
    alpha: float = 1.0,
    read: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Tensor:
    """<K_i, K_j>_F of n versions of the same M networks: float64 [M, n, n]; `measures.alignment` takes it.

    x [M, T, batch, inputs]; read: how many of the last steps have outputs (all by default).  Raises RetrofitError
    where a product is not finite.
    """
    read = x.shape[1] if read is None else read
    factors = [_Factors(weights, x, alpha, read) for weights in networks]
    found = x.new_zeros(len(x), len(networks), len(networks), dtype=torch.float64)
    for rows in _blocks(x, factors[0].columns, len(networks), block_bytes):
        kernels = [each.block(rows) for each in factors]
        for i, one in enumerate(kernels):
            for j in range(i + 1):
                product = (one * kernels[j]).flatten(1).sum(1, dtype=torch.float64)
                found[:, i, j] += product
                if i != j:
                    found[:, j, i] += product
    if not torch.isfinite(found).all():
        raise RetrofitError(
            "the tangent kernel is not finite: weights or inputs are not, or states overflow"
        )
    return found


def tangent_kernel(
    weights: Weights, x: Tensor, alpha: float = 1.0, read: int | None = None
) -> Tensor:
    """K itself [M, rows, rows], rows (t, b, k) in this order: for networks and batches that are small enough."""
    read = x.shape[1] if read is None else read
    factors = _Factors(weights, x, alpha, read)
    members, batch = len(x), x.shape[2]
    whole = factors.block(slice(None))
    shape = (batch, read, factors.outputs)
    whole = whole.view(members, *shape, *shape).flip(2, 5)
    rows = batch * factors.columns
    return whole.permute(0, 2, 1, 3, 5, 4, 6).reshape(members, rows, rows)


def _blocks(x: Tensor, columns: int, versions: int, block_bytes: int) -> Iterator[slice]:
    members, _, batch, _ = x.shape
    # Each version's block, and one more while its terms are made.
    sample = (versions + 1) * members * columns * batch * columns * x.element_size()
    count = max(1, block_bytes // sample)
    for start in range(0, batch, count):
        yield slice(start, min(start + count, batch))

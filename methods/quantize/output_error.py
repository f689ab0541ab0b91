"""What rounding a weight costs at a linear layer's output, from second moments of its inputs.

With G = X^T X / n over n input rows, the mean squared error of the output of a changed weight is
`tr(D G D^T) / out`, D the change: exact, and its cost does not grow with n.
"""

from __future__ import annotations

import torch


def second_moment(x: torch.Tensor) -> torch.Tensor:
    """Sum over rows of x x^T, float32 `[in, in]`, for `x` `[n, in]`.

    Half of the symmetric matrix is computed, in strips. bfloat16 rows are multiplied as such, twice
    as fast, with a result good to 2^-9: enough to compare losses, but not to invert, because next to
    an outlier channel that error exceeds the second moment of the others. Pass float32 for that.
    """
    width = x.shape[1]
    strips = [(a, min(a + 384, width)) for a in range(0, width, 384)]
    out = torch.empty(width, width, dtype=torch.float32, device=x.device)
    for start, stop in strips:
        out[start:stop, start:] = x[:, start:stop].T @ x[:, start:]
        out[stop:, start:stop] = out[start:stop, stop:].T
    return out


def linear_output_loss(delta: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """`tr(D G D^T) / out`, float32 scalar; delta `[out, in]`, gram `[in, in]` (any float type:
    the product is taken in that type, the sum in float32).
    """
    product = (delta.to(gram.dtype) @ gram).float()
    return product.mul_(delta).sum() / delta.shape[0]


def group_gram(rows: torch.Tensor, group_size: int) -> torch.Tensor:
    """Mean over rows of x_g x_g^T for each group of columns: `[groups, g, g]` for `[n, in]`."""
    n, width = rows.shape
    g = width if group_size == -1 else group_size
    parts = rows.reshape(n, width // g, g).transpose(0, 1)
    return parts.transpose(1, 2) @ parts / n


def diagonal_blocks(gram: torch.Tensor, group_size: int) -> torch.Tensor:
    """The blocks `[groups, g, g]` of a whole second moment `[in, in]` on its diagonal."""
    width = gram.shape[0]
    g = width if group_size == -1 else group_size
    return torch.stack([gram[a : a + g, a : a + g] for a in range(0, width, g)])


def group_output_error(delta: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Mean squared output error of every row and group alone, `[out, groups]`.

    delta: `[out, groups, g]`; gram: `[groups, g, g]`.
    """
    parts = delta.transpose(0, 1)
    return ((parts @ gram) * parts).sum(-1).T

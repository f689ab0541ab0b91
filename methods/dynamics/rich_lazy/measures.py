"""How far training has moved a network: the paper's measures of rich and lazy learning.

Stacked over networks in the first dimension.  Alignments are 1 for no change (lazy) and fall towards 0 (rich); they are
0 where nothing is left to align: a network whose units are all silent has neither representation nor kernel.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def weight_change(before: Tensor, after: Tensor) -> Tensor:
    """||W_f - W_0||_F [M] of recurrent weights [M, N, N]."""
    return torch.linalg.matrix_norm(after.double() - before.double())


def representation_alignment(before: Tensor, after: Tensor) -> Tensor:
    """RA = <R_0, R_f>_F / (||R_0||_F ||R_f||_F), R = H H', of hidden states H [M, samples, N]; [M] in 0..1.

    By <H_0 H_0', H_f H_f'>_F = ||H_0' H_f||_F^2 no matrix of samples by samples is formed.
    """
    overlap = torch.linalg.matrix_norm((before.mT @ after).double())
    own = torch.linalg.matrix_norm((before.mT @ before).double())
    both = own * torch.linalg.matrix_norm((after.mT @ after).double())
    return _ratio(overlap.square(), both)


def sign_similarity(before: Tensor, after: Tensor) -> Tensor:
    """Share of hidden states [M, ...] with the same sign (0 counts as one) before and after; [M]."""
    return (before.sign() == after.sign()).flatten(1).double().mean(1)


def alignment(products: Tensor) -> Tensor:
    """KA of every pair from inner products of kernels [M, n, n]: <K_i, K_j> / (||K_i|| ||K_j||)."""
    own = products.diagonal(dim1=-2, dim2=-1).sqrt()
    return _ratio(products, own[:, :, None] * own[:, None, :])


def silent(h: Tensor) -> Tensor:
    """Whether every unit of h [M, ...] is 0; bool [M]."""
    return ~(h != 0.0).flatten(1).any(1)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0.0, numerator / denominator.clamp_min(1e-300), 0.0)


def participation_ratio(w: np.ndarray) -> np.ndarray:
    """Effective rank (sum_i s_i)^2 / sum_i s_i^2 of singular values [...]; from 1 to N, r for r equal ones."""
    s = np.linalg.svd(w, compute_uv=False)
    return s.sum(axis=-1) ** 2 / (s**2).sum(axis=-1)


def entropy_rank(w: np.ndarray) -> np.ndarray:
    """Effective rank exp(-sum_i p_i ln p_i), p_i = s_i / sum_j s_j (Roy and Vetterli 2007); the same bounds."""
    s = np.linalg.svd(w, compute_uv=False)
    p = s / s.sum(axis=-1, keepdims=True)
    return np.exp(-np.where(p > 0.0, p * np.log(np.where(p > 0.0, p, 1.0)), 0.0).sum(axis=-1))

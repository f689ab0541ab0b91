"""Batches as pure functions of (seed, step): nothing to save, nothing that workers can reorder.

Data sets stay whole in memory as uint8; a batch is gathered by its indices and converted then.
No function loops over samples.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def stream(seed: int, *position: int | str) -> torch.Generator:
    """A CPU generator for one position (epoch, step, name, …) of the stream ``seed``.

    Made anew from its position each time, so a resumed run needs no generator state.
    """
    text = "|".join(str(part) for part in (seed, *position))
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Batches:
    """A fresh permutation of ``samples`` in each epoch, cut into batches of ``size``.

    The last batch of an epoch is smaller where ``size`` does not divide, or left out with
    ``drop_last``. In a distributed run every process takes its own ``shard`` (rank, processes)
    of each batch, and together they see what one process would see.
    """

    samples: int
    size: int
    seed: int
    drop_last: bool = False
    shard: tuple[int, int] = (0, 1)

    def __post_init__(self):
        if self.samples < 1 or self.size < 1:
            raise ValueError(f"{self.samples} samples in batches of {self.size}: both must be > 0")
        if self.drop_last and self.samples < self.size:
            raise ValueError(f"drop_last leaves no batch of {self.size} in {self.samples} samples")

    @property
    def per_epoch(self) -> int:
        """Updates in one epoch."""
        whole, rest = divmod(self.samples, self.size)
        return whole + (rest > 0 and not self.drop_last)

    def indices(self, step: int) -> Tensor:
        """int64 indices of the batch of update ``step`` (0, 1, …, running over all epochs)."""
        epoch, position = divmod(step, self.per_epoch)
        batch = self._order(epoch)[position * self.size : (position + 1) * self.size]
        rank, processes = self.shard
        return batch if processes == 1 else batch.tensor_split(processes)[rank]

    def _order(self, epoch: int) -> Tensor:
        # One permutation is kept, since consecutive steps share it; it is a cache, not state.
        cached = self.__dict__.get("_cached")
        if cached is None or cached[0] != epoch:
            order = torch.randperm(self.samples, generator=stream(self.seed, "epoch", epoch))
            cached = (epoch, order)
            object.__setattr__(self, "_cached", cached)
        return cached[1]


def held_out(samples: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random disjoint int64 indices (kept, held out), each sorted; ``count`` are held out.

    Raises ValueError unless 0 <= count < samples.
    """
    if not 0 <= count < samples:
        raise ValueError(f"cannot hold {count} of {samples} samples out")
    order = torch.randperm(samples, generator=stream(seed, "held out"))
    return order[count:].sort().values, order[:count].sort().values


def subset(samples: int, limit: int | None) -> Tensor:
    """Sorted int64 indices of ``limit`` of the samples (None: all), the same ones for every seed."""
    if limit is None or limit >= samples:
        return torch.arange(samples)
    return torch.randperm(samples, generator=stream(0, "subset"))[:limit].sort().values


def moments(x: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of uint8 [n, h, w] or [n, h, w, c], in 0..1.

    Exact integer sums, so the order of the samples does not matter. A constant channel's
    deviation is given as 1.
    """
    pixels = x[..., None] if x.ndim == 3 else x
    values = np.arange(256, dtype=np.float64) / 255.0
    means, deviations = [], []
    for channel in range(pixels.shape[-1]):
        counts = np.bincount(pixels[..., channel].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        variance = float(counts @ (values - mean) ** 2 / counts.sum())
        means.append(mean)
        # Rounding can leave a constant channel a variance of 1e-33 instead of none.
        deviations.append(1.0 if counts.max() == counts.sum() else variance**0.5)
    return means, deviations


def as_batch_first(x: np.ndarray, device: str | torch.device = "cpu") -> Tensor:
    """uint8 [n, h, w] or [n, h, w, c] to a uint8 tensor [n, c, h, w] on the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    tensor = tensor[:, None] if tensor.dim() == 3 else tensor.permute(0, 3, 1, 2)
    return tensor.contiguous().to(device)


def standardise(
    x: Tensor, mean: list[float], std: list[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """uint8 [n, c, h, w] to (x/255 - mean) / std, by channel."""
    scale = torch.tensor([1 / (255 * s) for s in std], dtype=dtype, device=x.device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=dtype).to(x.device)
    return torch.addcmul(shift[:, None, None], x.to(dtype), scale[:, None, None])


def shift_and_flip(
    x: Tensor, generator: torch.Generator, pad: int = 4, flip: bool = True
) -> Tensor:
    """Crop each image at a random offset from itself padded by ``pad`` zeros; mirror half of them.

    [n, c, h, w] to the same shape and dtype. One gather for the batch, no loop over images.
    """
    n, _, height, width = x.shape
    offsets = torch.randint(0, 2 * pad + 1, (2, n), generator=generator).to(x.device)
    mirrored = (torch.rand(n, generator=generator) < 0.5).to(x.device)
    padded = torch.nn.functional.pad(x, (pad, pad, pad, pad))
    rows = offsets[0][:, None] + torch.arange(height, device=x.device)
    columns = torch.arange(width, device=x.device).repeat(n, 1)
    if flip:
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = columns + offsets[1][:, None]
    sample = torch.arange(n, device=x.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )

"""Ghost batch normalisation: batch statistics over small slices of a large batch.

Hoffer, Hubara, Soudry, "Train longer, generalize better", 2017 (arXiv 1705.08741), section 4
and Algorithm 1. A batch of ``n`` samples is cut into contiguous *ghosts*; in training each ghost
is normalised by its own mean and variance, while scale, shift and the running statistics are
shared. In evaluation mode the layers are ``nn.BatchNorm`` exactly.

Fidelity
--------
Paper: the layer itself, contiguous ghosts, shared affine parameters.

Published code (eladhoffer/bigBatch) has no such layer. It forwards and backwards each chunk of
the batch separately and averages the gradients. With equal ghosts, and no other operation that
mixes samples, the layer's full-batch step is that accumulation (``tests/large_batch`` holds both
to 1e-6); the layer does it in one forward pass.

Running statistics (``running``); with eta the momentum and n ghosts:

* ``sequential`` (default): one update per ghost, in order, as the published code does by calling
  BatchNorm once per ghost. mu <- (1-eta)^n mu + sum_l eta (1-eta)^(n-1-l) mu_l. The memory
  shrinks with n: at eta = .1 and n = 32, (1-eta)^n = .034, so evaluation statistics come almost
  entirely from the last batch.
* ``composer``: the same with eta/n in place of eta (MosaicML composer), memory near one batch's.
* ``averaged``: one update by the mean over ghosts (CIFAR-10 speed-run codes).
* ``paper_literal`` is refused. Algorithm 1, as printed, uses the exponent |B_S| (a sample count)
  for the old value and weights (1-eta)^i eta that do not sum to one with it, and so shrinks the
  statistics towards zero; it averages standard deviations where evaluation needs variances.

Uneven batches (``remainder``), for n not a multiple of the ghost size:

* ``keep`` (default): full ghosts and one smaller ghost of what is left;
* ``merge``: what is left joins the last full ghost;
* ``chunk``: as published, ``torch.chunk`` into a fixed number of ghosts (``chunks``), so that a
  short last batch has smaller ghosts: 2656 samples in 32 chunks are 32 x 83;
* ``error``: refuse.

A last ghost with a single value per channel has no variance. Under every policy it joins the
ghost before it; a batch with one value per channel in all is refused, as BatchNorm does.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

RunningRule = Literal["sequential", "composer", "averaged"]
RemainderRule = Literal["keep", "merge", "chunk", "error"]
RUNNING_RULES = ("sequential", "composer", "averaged")
REMAINDER_RULES = ("keep", "merge", "chunk", "error")


class GhostSplit(NamedTuple):
    """``count`` ghosts of ``size`` samples, then one of ``tail`` samples (0: none)."""

    count: int
    size: int
    tail: int

    def sizes(self) -> list[int]:
        """The number of samples of each ghost, in order."""
        return [self.size] * self.count + [self.tail] * (self.tail > 0)


def ghost_split(
    samples: int,
    ghost_size: int,
    remainder: RemainderRule = "keep",
    chunks: int | None = None,
    values_per_sample: int = 1,
) -> GhostSplit:
    """Cut a batch of ``samples`` into contiguous ghosts.

    ``values_per_sample`` is how many values of one channel a sample brings (height x width for
    images); it decides whether a single-sample ghost has a variance. ``chunks`` is read by the
    ``chunk`` policy only. Raises ValueError for an uneven batch under ``error``.
    """
    if remainder == "chunk":
        if chunks is None:
            raise ValueError("remainder='chunk' needs chunks, the number of ghosts of a full batch")
        ghost_size = -(-samples // chunks)
    count, tail = divmod(samples, ghost_size)
    if count == 0:
        return GhostSplit(1, samples, 0)
    if tail and remainder == "error":
        raise ValueError(
            f"a batch of {samples} does not divide into ghosts of {ghost_size}; "
            "choose remainder 'keep', 'merge' or 'chunk', or drop the last batch"
        )
    if tail and (remainder == "merge" or tail * values_per_sample == 1):
        count, tail = count - 1, ghost_size + tail
        if count == 0:
            return GhostSplit(1, tail, 0)
    if ghost_size * values_per_sample == 1 and count > 1:
        raise ValueError(
            "ghosts of one value per channel have no variance; use a larger ghost_size"
        )
    return GhostSplit(count, ghost_size, tail)


def running_weights(
    ghosts: int, momentum: float | None, rule: RunningRule, tracked: int = 0
) -> tuple[float, list[float]]:
    """Weight of the old running value, and of each ghost's statistic in the new one.

    They sum to one. ``momentum=None`` is BatchNorm's cumulative average, of which ``tracked`` is
    the number of updates so far; there every rule gives the plain mean over all updates.
    """
    if rule not in RUNNING_RULES:
        raise ValueError(
            f"running={rule!r}: allowed are {', '.join(RUNNING_RULES)} (the paper's printed rule "
            "does not keep the statistics' scale, see the module's Fidelity section)"
        )
    if rule == "averaged":
        step = 1.0 / (tracked + 1) if momentum is None else momentum
        return 1.0 - step, [step / ghosts] * ghosts
    if momentum is None:
        steps = [1.0 / (tracked + ghost + 1) for ghost in range(ghosts)]
    else:
        steps = [momentum / ghosts if rule == "composer" else momentum] * ghosts
    kept, weights = 1.0, []
    for step in reversed(steps):
        weights.append(kept * step)
        kept *= 1.0 - step
    return kept, weights[::-1]


def ghost_batch_norm(
    x: Tensor,
    split: GhostSplit,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise each ghost of ``x`` [n, C, ...] by its own statistics.

    Returns the output, shaped and laid out as ``x``, and the ghosts' means and unbiased variances,
    each float32 [ghosts, C] (float64 for float64 input), without gradient. There is no loop over
    ghosts: the full ones go through one batch normalisation with count x C channels, a tail
    through another.
    """
    channels = x.shape[1]
    stat_dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    outputs, means, variances = [], [], []
    head = split.count * split.size
    pieces = [(x[:head], split.count)] if split.tail else [(x, split.count)]
    if split.tail:
        pieces.append((x[head:], 1))
    for piece, count in pieces:
        # Momentum 1 into scratch buffers makes the kernel hand back its own batch statistics.
        mean = torch.zeros(count * channels, dtype=stat_dtype, device=x.device)
        variance = torch.ones_like(mean)
        normalised = functional.batch_norm(
            _ghosts_to_channels(piece, count),
            mean,
            variance,
            None if weight is None else weight.repeat(count),
            None if bias is None else bias.repeat(count),
            training=True,
            momentum=1.0,
            eps=eps,
        )
        outputs.append(_channels_to_ghosts(normalised, piece, count))
        means.append(mean.view(count, channels))
        variances.append(variance.view(count, channels))
    if len(outputs) == 1:
        return outputs[0], means[0], variances[0]
    return torch.cat(outputs), torch.cat(means), torch.cat(variances)


def _is_channels_last(x: Tensor) -> bool:
    return (
        x.dim() == 4
        and x.shape[1] > 1
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
    )


def _ghosts_to_channels(x: Tensor, count: int) -> Tensor:
    """[count*s, C, ...] -> [s, count*C, ...]: the l-th ghost's channels are l*C .. (l+1)*C-1.

    Channels-last images go to [s*h*w, count*C] instead, which moves whole runs of C values.
    """
    if count == 1:
        return x
    channels = x.shape[1]
    if _is_channels_last(x):
        return x.permute(0, 2, 3, 1).reshape(count, -1, channels).transpose(0, 1).flatten(1)
    return x.unflatten(0, (count, -1)).transpose(0, 1).flatten(1, 2)


def _channels_to_ghosts(y: Tensor, like: Tensor, count: int) -> Tensor:
    """The inverse of :func:`_ghosts_to_channels`, in the shape of ``like``."""
    if count == 1:
        return y
    channels = like.shape[1]
    split = y.unflatten(1, (count, channels)).transpose(0, 1)
    if _is_channels_last(like):
        n, _, height, width = like.shape
        return split.reshape(n, height, width, channels).permute(0, 3, 1, 2)
    return split.flatten(0, 1)


class _GhostBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the 1-D and 2-D layers share; the parameters are those of ``nn.BatchNorm`` and

    ghost_size : samples per ghost; a batch of at most that many is one ghost, where the layer is
        ``nn.BatchNorm`` exactly.
    running, remainder, chunks : see the module's documentation.

    The state dict is BatchNorm's, so checkpoints go both ways. Statistics stay in float32 under
    autocast. In training the input is [n, C] or [n, C, ...]; an empty or a one-value batch raises
    ValueError.
    """

    def __init__(
        self,
        num_features: int,
        ghost_size: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
        *,
        running: RunningRule = "sequential",
        remainder: RemainderRule = "keep",
        chunks: int | None = None,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if ghost_size < 1:
            raise ValueError(f"ghost_size={ghost_size}: must be at least 1")
        if remainder not in REMAINDER_RULES:
            raise ValueError(f"remainder={remainder!r}: allowed are {', '.join(REMAINDER_RULES)}")
        if remainder == "chunk" and (chunks is None or chunks < 1):
            raise ValueError("remainder='chunk' needs chunks, the number of ghosts of a full batch")
        running_weights(1, momentum, running)  # refuses an unknown rule now, not at the first batch
        self.ghost_size = ghost_size
        self.running = running
        self.remainder = remainder
        self.chunks = chunks

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, ...] -> the same shape and dtype."""
        self._check_input_dim(x)
        if not self.training and self.running_mean is not None:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        if x.shape[0] == 0:
            raise ValueError("ghost batch normalisation needs at least one sample, got none")
        split = ghost_split(
            x.shape[0], self.ghost_size, self.remainder, self.chunks, x[0, 0].numel()
        )
        if split.count == 1 and not split.tail:
            # One ghost is BatchNorm itself, to the bit, whatever the rule.
            return super().forward(x)
        y, means, variances = ghost_batch_norm(x, split, self.weight, self.bias, self.eps)
        if self.training and self.track_running_stats:
            self._update_running(means, variances)
        return y

    @torch.no_grad()
    def _update_running(self, means: Tensor, variances: Tensor) -> None:
        ghosts = means.shape[0]
        # Reading the counter would wait for the device; only the cumulative average needs it.
        tracked = int(self.num_batches_tracked) if self.momentum is None else 0
        kept, weights = running_weights(ghosts, self.momentum, self.running, tracked)
        weight = means.new_tensor(weights)[:, None]
        # Multiply and sum, not a matrix product: autocast would run that one in bfloat16.
        self.running_mean.mul_(kept).add_((weight * means).sum(0).to(self.running_mean.dtype))
        self.running_var.mul_(kept).add_((weight * variances).sum(0).to(self.running_var.dtype))
        self.num_batches_tracked.add_(1 if self.running == "averaged" else ghosts)

    def extra_repr(self) -> str:
        """BatchNorm's line with the ghost's settings."""
        return (
            f"{super().extra_repr()}, ghost_size={self.ghost_size}, "
            f"running={self.running!r}, remainder={self.remainder!r}"
        )


class GhostBatchNorm1d(_GhostBatchNorm):
    """Ghost batch normalisation of [n, C] or [n, C, length]."""

    _check_input_dim = nn.BatchNorm1d._check_input_dim


class GhostBatchNorm2d(_GhostBatchNorm):
    """Ghost batch normalisation of [n, C, height, width]."""

    _check_input_dim = nn.BatchNorm2d._check_input_dim


def replace_batch_norm(
    module: nn.Module,
    ghost_size: int,
    *,
    running: RunningRule = "sequential",
    remainder: RemainderRule = "keep",
    chunks: int | None = None,
) -> nn.Module:
    """Put ghost layers in place of every BatchNorm1d/2d of ``module``, sharing their tensors.

    Parameters and buffers are the very same objects, so an optimiser made before stays valid.
    Returns ``module`` (or its replacement, if it is itself a BatchNorm). Ghost layers already
    there take the new settings, so the call is idempotent. Other kinds of BatchNorm (3-D,
    synchronised) raise TypeError.
    """
    for name, child in list(module.named_children()):
        replaced = replace_batch_norm(
            child, ghost_size, running=running, remainder=remainder, chunks=chunks
        )
        if replaced is not child:
            setattr(module, name, replaced)
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return module
    kinds = {
        nn.BatchNorm1d: GhostBatchNorm1d,
        nn.BatchNorm2d: GhostBatchNorm2d,
        GhostBatchNorm1d: GhostBatchNorm1d,
        GhostBatchNorm2d: GhostBatchNorm2d,
    }
    if type(module) not in kinds:
        raise TypeError(f"no ghost layer for {type(module).__name__}; known are BatchNorm1d and 2d")
    ghost = kinds[type(module)](
        module.num_features,
        ghost_size,
        module.eps,
        module.momentum,
        module.affine,
        module.track_running_stats,
        running=running,
        remainder=remainder,
        chunks=chunks,
    )
    ghost.weight, ghost.bias = module.weight, module.bias
    ghost.running_mean, ghost.running_var = module.running_mean, module.running_var
    ghost.num_batches_tracked = module.num_batches_tracked
    return ghost.train(module.training)

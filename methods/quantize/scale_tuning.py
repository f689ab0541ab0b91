"""The last pass: all scales of a quantised network learn together, from the float network's logits.

Codes and zero points stay, so nothing is added to what is stored. Teacher and student are the same
module with two sets of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.export.packed import PackedWeight
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.quantize.learned_params import Finish
    from methods.run.context import Context

WARM_UP = 4
"""Updates over which the learning rate rises."""


class Dequantize(torch.autograd.Function):
    """(q - z) s as a weight `[out, in]`, with a gradient for s `[out, groups]` only; keeps the codes
    as bytes, so that a whole network's weights need no second copy for the backward pass.
    """

    @staticmethod
    def forward(context, codes: Tensor, zero: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """codes uint8 `[out, in]`, zero int32 and scale float32 `[out, groups]`."""
        context.save_for_backward(codes, zero)
        return (_steps(codes, zero) * scale.unsqueeze(-1)).flatten(1).to(dtype)

    @staticmethod
    def backward(context, grad: Tensor):
        """d/ds: over a group, the sum of the weight's gradient times (q - z)."""
        codes, zero = context.saved_tensors
        steps = _steps(codes, zero)
        return None, None, (steps * grad.float().view_as(steps)).sum(-1), None


def _steps(codes: Tensor, zero: Tensor) -> Tensor:
    return codes.float().unflatten(1, (zero.shape[1], -1)) - zero.unsqueeze(-1)


class _Divergence(torch.autograd.Function):
    """KL of many logits, a few rows at a time, with the gradient made on the way: whole
    vocabularies in float32 would be most of the memory.
    """

    ROWS = 64

    @staticmethod
    def forward(context, found: Tensor, wanted: Tensor) -> Tensor:
        rows, total = found.shape[0], 0.0
        grad = torch.empty_like(found)
        for start in range(0, rows, _Divergence.ROWS):
            part = slice(start, start + _Divergence.ROWS)
            p, q = (t[part].float().log_softmax(-1) for t in (wanted, found))
            chance = p.exp()
            total = total + (chance * (p - q)).sum()
            grad[part] = q.exp_().sub_(chance).div_(rows)
        context.save_for_backward(grad)
        return total / rows

    @staticmethod
    def backward(context, up: Tensor):
        (grad,) = context.saved_tensors
        return grad * up, None


def divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """KL(wanted || found) of logits `[…, classes]`, mean over rows, nats; differentiable in `found`."""
    return _Divergence.apply(found.flatten(0, -2), wanted.flatten(0, -2))


def tune_scales(
    logits: Callable[[Tensor, dict[str, Tensor]], Tensor],
    float_weights: dict[str, Tensor],
    packed: dict[str, PackedWeight],
    shapes: dict[str, torch.Size],
    inputs: Tensor,
    settings: Finish,
    scale_dtype: torch.dtype,
    dtype: torch.dtype,
    context: Context,
) -> tuple[dict[str, PackedWeight], tuple[float, float]]:
    """The packed weights with tuned scales, and the first and last epoch's mean divergence.

    logits: the network's, for inputs `[b, …]` and weights by parameter name. float_weights: of the
    teacher, in `dtype`. shapes: of the weights by layer. Raises RetrofitError when the loss is not
    finite.
    """
    logs = {n: p.scale.clamp(min=1e-12).log().requires_grad_() for n, p in packed.items()}
    optimizer = torch.optim.Adam(logs.values(), lr=settings.learning_rate)
    generator = context.generator("scale tuning")
    rows = len(inputs)
    per_epoch = -(-rows // settings.batch)
    steps = per_epoch * settings.epochs
    history: list[float] = []
    for step in context.progress(range(steps), total=steps, label="scales, end to end"):
        position = step % per_epoch
        if position == 0:
            order = torch.randperm(rows, generator=generator)
        x = inputs[order[position * settings.batch : (position + 1) * settings.batch]]
        with torch.no_grad():
            wanted = logits(x, float_weights)
        weights = {
            f"{n}.weight": Dequantize.apply(p.codes, p.zero, logs[n].exp(), dtype).view(shapes[n])
            for n, p in packed.items()
        }
        loss = divergence(logits(x, weights), wanted)
        if not torch.isfinite(loss):
            raise RetrofitError("scale tuning: the loss is not finite; lower finish.learning_rate")
        rising = min(1.0, (step + 1) / WARM_UP)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rising * (1 - step / steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    tuned = {}
    for name, weight in packed.items():
        scale = logs[name].detach().exp().to(scale_dtype).float()
        tuned[name] = PackedWeight(
            weight.codes, scale, weight.zero, weight.bits, weight.group_size, weight.symmetric
        )
    first, last = (sum(part) / len(part) for part in (history[:per_epoch], history[-per_epoch:]))
    return tuned, (first, last)

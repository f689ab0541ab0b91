"""Batch normalisation folded into the convolution or linear layer before it.

The architecture stays: the layer takes the normalisation's scale, which keeps only a shift. What is
quantised afterwards are the weights that a deployed network would have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@torch.no_grad()
def pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """`[(layer, norm)]` where a norm is fed with exactly what a layer gave; found by running."""
    outputs: dict[int, tuple[Tensor, nn.Module]] = {}
    found: list[tuple[nn.Module, nn.Module]] = []

    def leaves(layer: nn.Module, _: tuple, out: Tensor) -> None:
        outputs[id(out)] = (out, layer)  # keeps the tensor, so its identity is not reused

    def enters(norm: nn.Module, args: tuple) -> None:
        if id(args[0]) in outputs:
            found.append((outputs[id(args[0])][1], norm))

    hooks = []
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            hooks.append(module.register_forward_hook(leaves))
        elif isinstance(module, NORMS):
            hooks.append(module.register_forward_pre_hook(enters))
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def fold_batch_norms(network: nn.Module, images: Tensor) -> int:
    """Fold every pair of a network in evaluation mode, in place; how many there were.

    images: a small input of the network. Its outputs do not change beyond rounding.
    """
    done = pairs(network, images)
    for layer, norm in done:
        spread = torch.sqrt(norm.running_var + norm.eps)
        scale = norm.weight / spread
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))
        if layer.bias is not None:
            layer.bias.mul_(scale)
        norm.bias.sub_(norm.running_mean * scale)
        norm.running_mean.zero_()
        # So that the normalisation multiplies by 1.
        norm.weight.copy_(spread)
    return len(done)

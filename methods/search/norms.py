"""Entangled normalisation: batch statistics and layer statistics of a chosen width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.search import masks
from methods.search.choices import Size, size_in
from methods.search.layers import Entangled, Sharing, holding
from methods.search.mixture import Mixture
from methods.study.errors import RetrofitError


class EntangledBatchNorm(Entangled, nn.modules.batchnorm._BatchNorm):
    """[n, c, …] with a choice of channels: scale and shift are superposed, statistics are shared.

    A channel that no option has is zero before and after.
    """

    def __init__(
        self,
        layer: nn.modules.batchnorm._BatchNorm,
        mixture: Mixture,
        outputs: Size | None = None,
        name: str = "norm",
    ):
        super().__init__(
            layer.num_features,
            layer.eps,
            layer.momentum,
            layer.affine,
            layer.track_running_stats,
            device="meta",
        )
        self.kind = type(layer)
        for key in ("weight", "bias"):
            self.register_parameter(key, getattr(layer, key))
        for key in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(key, getattr(layer, key))
        full = torch.Size([layer.num_features])
        self._entangle(name, mixture, (outputs,), full)

    def share(self, sharing: Sharing, generator: torch.Generator | None = None) -> None:
        """Normalisation follows the mixed output in every way of sharing."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised over batch and image, in evaluation mode by the running statistics."""
        chosen = self.mixture.chosen
        if chosen is not None:
            return self._normalised(x, slice(0, self._channels(chosen)), self.weight, self.bias)
        if self.sizes[0] is None:
            return self._normalised(x, slice(None), self.weight, self.bias)
        m = self.mask(self.sizes)
        if not self.affine:
            y = self._normalised(x, slice(None), None, None)
            return y * m.reshape(-1, *[1] * (x.dim() - 2))
        return self._normalised(x, slice(None), self.weight * m, self.bias * m)

    def plain(self, architecture: Mapping[str, Any]) -> nn.Module:
        """The layer of a sub-network, with its slice of the running statistics."""
        channels = self._channels(architecture)
        layer = self.kind(channels, self.eps, self.momentum, self.affine, self.track_running_stats)
        with torch.no_grad():
            for key in ("weight", "bias", "running_mean", "running_var"):
                if getattr(layer, key) is not None:
                    getattr(layer, key).copy_(getattr(self, key)[:channels])
            if self.track_running_stats:
                layer.num_batches_tracked.copy_(self.num_batches_tracked)
        return layer.to(self._rows0.device if self.sizes[0] else "cpu").train(self.training)

    def _channels(self, architecture: Mapping[str, Any]) -> int:
        size = self.sizes[0]
        return self.num_features if size is None else size_in(size, architecture)

    def _normalised(
        self, x: Tensor, part: slice, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        tracked = self.track_running_stats
        return functional.batch_norm(
            x,
            self.running_mean[part] if tracked else None,
            self.running_var[part] if tracked else None,
            None if weight is None else weight[part],
            None if bias is None else bias[part],
            self.training or not tracked,
            momentum,
            self.eps,
        )

    def _check_input_dim(self, x: Tensor) -> None:
        """The plain layer's check is of its own kind; here any [n, c, …] will do."""


class EntangledLayerNorm(Entangled, nn.LayerNorm):
    """[..., d] normalised over the leading dimensions of each option, and mixed."""

    def __init__(
        self,
        layer: nn.LayerNorm,
        mixture: Mixture,
        outputs: Size | None = None,
        name: str = "norm",
    ):
        if len(layer.normalized_shape) != 1:
            raise RetrofitError(f"layer {name}: only norms over the last dimension have a choice")
        bias = layer.bias is not None
        super().__init__(
            layer.normalized_shape, layer.eps, layer.elementwise_affine, bias, device="meta"
        )
        self.weight, self.bias = layer.weight, layer.bias
        if outputs is not None and len(outputs.choices) > 1:
            raise RetrofitError(f"layer {name}: a layer norm has one choice, not a product")
        self._entangle(name, mixture, (outputs,), torch.Size(layer.normalized_shape))

    def share(self, sharing: Sharing, generator: torch.Generator | None = None) -> None:
        """Normalisation is shared in every way of sharing."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised; what no option has is zero."""
        chosen = self.mixture.chosen
        if chosen is not None:
            width, weight, bias = self._of(chosen)
            return functional.layer_norm(x, (width,), weight, bias, self.eps)
        if self.sizes[0] is None:
            return super(Entangled, self).forward(x)
        a = self.mixture.of(self.sizes[0])
        return masks.layer_norm(x, self.weight, self.bias, self.eps, self._rows0, a)

    def plain(self, architecture: Mapping[str, Any]) -> nn.LayerNorm:
        """The layer of a sub-network."""
        width, weight, bias = self._of(architecture)
        layer = nn.LayerNorm(
            width, self.eps, self.elementwise_affine, bias is not None, device="meta"
        )
        return holding(layer, weight, bias)

    def _of(self, architecture: Mapping[str, Any]) -> tuple[int, Tensor | None, Tensor | None]:
        size = self.sizes[0]
        width = self.normalized_shape[0] if size is None else size_in(size, architecture)
        return width, *(None if t is None else t[:width] for t in (self.weight, self.bias))

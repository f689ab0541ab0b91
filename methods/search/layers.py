"""Entangled layers: torch's own, whose weight is superposed, or sliced, by the architecture that holds.

Each shares the parameters of the plain layer that it was made from and keeps its names in the state
dict. Its axes are sizes (:mod:`methods.search.choices`) or None. `plain(architecture)` gives the
torch layer of a sub-network, with copies of its slices.

``sharing`` is one of

* ``entangled``: one weight, superposed by its mask; one forward (the paper's way);
* ``outputs``: one weight, every combination's slice applied on its own, outputs padded and mixed
  (weight sharing as in the first generation of entangled methods);
* ``separate``: every combination has weights of its own, outputs mixed (DARTS' weight sharing).

Combinations are those of the decisions on outputs and kernel. What is inactive on the input side is
zero already, so each candidate of the last two reads all inputs, and inputs are only cut away in
`plain`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.search import masks
from methods.search.choices import Part, Size, distinct
from methods.search.mixture import Mixture
from methods.study.errors import RetrofitError

Sharing = Literal["entangled", "outputs", "separate"]
LEADING = ("leading", "leading", "centred", "centred")


class Entangled:
    """What the layers share. `sizes`: one for each axis of the weight, None where nothing is chosen."""

    mixture: Mixture
    sharing: Sharing = "entangled"
    sizes: tuple[Size | None, ...]
    sizes_of_bias: tuple[Size | None, ...]
    mixed: tuple[Size | None, ...]
    """The sizes of outputs and kernel."""

    def _entangle(self, name: str, mixture: Mixture, sizes: tuple, shape: torch.Size) -> None:
        self.mixture, self.sizes = mixture, sizes
        self.sizes_of_bias = sizes[:1]
        self.mixed = (sizes[0], *([None] * (len(sizes) > 1)), *sizes[2:])
        words = ("outputs", "inputs", "rows of a kernel", "columns of a kernel")
        for axis, (size, full, place) in enumerate(zip(sizes, shape, LEADING, strict=False)):
            if size is not None:
                masks.check_size(name, words[axis], size, full, place)
                rows = masks.indicator(size, full, place)
                self.register_buffer(f"_rows{axis}", rows, persistent=False)

    @property
    def decisions(self) -> list:
        """The decisions that rule this layer."""
        return distinct(self.sizes)

    def mask(self, sizes: tuple[Size | None, ...]) -> Tensor:
        """M under the weights that hold, for the leading axes of the weight."""
        rows = [getattr(self, f"_rows{axis}", None) for axis in range(len(sizes))]
        return masks.mask(sizes, rows, self.mixture.all(distinct(sizes)))

    def superposed(self) -> tuple[Tensor, Tensor | None]:
        """W * M and b * M, where a bias knows of outputs only."""
        weight = self.weight
        if any(size is not None for size in self.sizes):
            weight = weight * self.mask(self.sizes)
        return weight, self._superposed_bias()

    def sliced(self, architecture: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a sub-network."""
        weight, bias = self.weight, self.bias
        if self.sharing == "separate" and self._candidates():
            weight, bias = self._own(architecture)
        else:
            weight = masks.cut(weight, self.mixed, LEADING, architecture)
            if bias is not None:
                bias = masks.cut(bias, self.sizes_of_bias, LEADING, architecture)
        inputs = (None, self.sizes[1], None, None)[: weight.dim()]
        return masks.cut(weight, inputs, LEADING, architecture), bias

    def share(self, sharing: Sharing, generator: torch.Generator | None = None) -> None:
        """Choose how options share weights; ``separate`` gives each combination fresh ones.

        A layer inside one of several operations stays entangled: the operations are what is mixed.
        """
        if any(isinstance(choice, Part) for choice in self.decisions):
            return
        self.sharing = sharing
        if sharing != "separate" or not self._candidates():
            return
        weights, biases = [], []
        for chosen in self._candidates():
            weight = torch.empty_like(masks.cut(self.weight, self.mixed, LEADING, chosen))
            weights.append(nn.Parameter(self._initialised(weight, generator)))
            if self.bias is not None:
                bias = masks.cut(self.bias, self.sizes_of_bias, LEADING, chosen)
                biases.append(nn.Parameter(torch.zeros_like(bias)))
        self.own_weights, self.own_biases = nn.ParameterList(weights), nn.ParameterList(biases)
        has_bias = self.bias is not None
        del self.weight, self.bias
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)
        self._has_bias = has_bias

    @staticmethod
    def _initialised(weight: Tensor, generator: torch.Generator | None) -> Tensor:
        return nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)

    def _superposed_bias(self) -> Tensor | None:
        if self.bias is None or self.sizes_of_bias[0] is None:
            return self.bias
        return self.bias * self.mask(self.sizes_of_bias)

    def _candidates(self) -> list[dict[str, Any]]:
        """Every combination of the decisions on outputs and kernel, as {name: option}."""
        decisions = distinct(self.mixed)
        if not decisions:
            return []
        names = [_decided(choice) for choice in decisions]
        return [
            dict(zip(names, options, strict=True))
            for options in itertools.product(*(choice.options for choice in decisions))
        ]

    def _own(self, architecture: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        number = self._candidates().index(
            {_decided(c): architecture[_decided(c)] for c in distinct(self.mixed)}
        )
        return self.own_weights[number], self.own_biases[number] if self._has_bias else None

    def _mixed_outputs(self, x: Tensor) -> Tensor:
        """sum_i a_i Z(op_i(x)) over the candidates."""
        decisions = distinct(self.mixed)
        weights = self.mixture.all(decisions)
        joint = masks.joint(*(weights[choice.name] for choice in decisions))
        total = None
        for number, chosen in enumerate(self._candidates()):
            if self.sharing == "separate":
                weight, bias = self._own(chosen)
            else:
                weight = masks.cut(self.weight, self.mixed, LEADING, chosen)
                bias = self.bias
                if bias is not None:
                    bias = masks.cut(bias, self.sizes_of_bias, LEADING, chosen)
            y = self._padded(self._compute(x, weight, bias)) * joint[number]
            total = y if total is None else total + y
        return total

    def forward(self, x: Tensor) -> Tensor:
        """As the plain layer: of the chosen sub-network, or of the mixture."""
        chosen = self.mixture.chosen
        if chosen is not None:
            return self._compute(x, *self.sliced(chosen))
        if self.sharing == "entangled" or not self._candidates():
            return self._compute(x, *self.superposed())
        return self._mixed_outputs(x)


class EntangledLinear(Entangled, nn.Linear):
    """[..., in] to [..., out]; `outputs` and `inputs` are sizes or None."""

    def __init__(
        self,
        layer: nn.Linear,
        mixture: Mixture,
        outputs: Size | None = None,
        inputs: Size | None = None,
        name: str = "linear",
    ):
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self._entangle(name, mixture, (outputs, inputs), layer.weight.shape)

    def plain(self, architecture: Mapping[str, Any]) -> nn.Linear:
        """The layer of a sub-network."""
        weight, bias = self.sliced(architecture)
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        return holding(layer, weight, bias)

    def _compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias)

    def _padded(self, y: Tensor) -> Tensor:
        return functional.pad(y, (0, self.out_features - y.shape[-1]))


class EntangledConv2d(Entangled, nn.Conv2d):
    """[n, in, h, w] to [n, out, h', w'], whatever the kernel: padding shrinks with it.

    outputs, inputs, kernel: sizes or None. A depthwise convolution has one choice of channels, given
    as `outputs`; other grouped convolutions can choose kernels only.
    Raises RetrofitError for kernels that do not lie in the centre, and where the padding is so small
    that a smaller kernel would give a smaller image.
    """

    def __init__(
        self,
        layer: nn.Conv2d,
        mixture: Mixture,
        outputs: Size | None = None,
        inputs: Size | None = None,
        kernel: Size | None = None,
        name: str = "convolution",
    ):
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            device="meta",
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.depthwise = layer.groups > 1 and layer.groups == layer.in_channels
        if layer.padding_mode != "zeros":
            raise RetrofitError(f"layer {name}: padding_mode must be 'zeros' to choose kernels")
        if layer.groups > 1 and not self.depthwise and (outputs is not None or inputs is not None):
            raise RetrofitError(
                f"layer {name}: a convolution with {layer.groups} groups can choose kernels only"
            )
        if self.depthwise and inputs is not None:
            raise RetrofitError(f"layer {name}: give a depthwise convolution `outputs` only")
        self._entangle(name, mixture, (outputs, inputs, kernel, kernel), layer.weight.shape)
        if kernel is not None:
            self._check_padding(name, layer, kernel)

    def _check_padding(self, name: str, layer: nn.Conv2d, kernel: Size) -> None:
        sides = layer.kernel_size, layer.padding, layer.dilation
        if any(isinstance(side, str) or side[0] != side[1] for side in sides):
            raise RetrofitError(
                f"layer {name}: a choice of kernels needs squares, padded in numbers"
            )
        smallest = min(kernel.size(*options) for options in masks.combinations(kernel))
        if self._padding(smallest) < 0:
            raise RetrofitError(
                f"layer {name}: with padding {layer.padding[0]} a kernel of {smallest} would give a "
                f"smaller image than one of {layer.kernel_size[0]}; pad by at least "
                f"{layer.dilation[0] * (layer.kernel_size[0] - smallest) // 2}"
            )

    def plain(self, architecture: Mapping[str, Any]) -> nn.Conv2d:
        """The layer of a sub-network."""
        weight, bias = self.sliced(architecture)
        groups = weight.shape[0] if self.depthwise else self.groups
        layer = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            self.stride,
            self._paddings(weight),
            self.dilation,
            groups,
            bias is not None,
            device="meta",
        )
        return holding(layer, weight, bias)

    def _padding(self, size: int) -> int:
        """Of a kernel of this size, so that it lies where the largest one's centre does."""
        return self.padding[0] - self.dilation[0] * (self.kernel_size[0] - size) // 2

    def _paddings(self, weight: Tensor) -> Any:
        if self.sizes[2] is None:
            return self.padding
        return (self._padding(weight.shape[2]),) * 2

    def _compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        groups = weight.shape[0] if self.depthwise else self.groups
        if self.depthwise:
            x = x[:, :groups]  # a candidate of fewer channels reads as many
        return functional.conv2d(
            x, weight, bias, self.stride, self._paddings(weight), self.dilation, groups
        )

    def _padded(self, y: Tensor) -> Tensor:
        return functional.pad(y, (0, 0, 0, 0, 0, self.out_channels - y.shape[1]))


class EntangledEmbedding(Entangled, nn.Embedding):
    """int64 [...] to [..., dim] with a choice of `outputs`, the leading dimensions."""

    def __init__(
        self,
        layer: nn.Embedding,
        mixture: Mixture,
        outputs: Size | None = None,
        name: str = "embedding",
    ):
        super().__init__(layer.num_embeddings, layer.embedding_dim, device="meta")
        if layer.max_norm is not None or layer.padding_idx is not None:
            raise RetrofitError(
                f"layer {name}: embeddings with max_norm or padding_idx are not known"
            )
        self.weight = layer.weight
        self.bias = None
        self._entangle(name, mixture, (None, outputs), layer.weight.shape)
        self.mixed = self.sizes
        self.sizes_of_bias = (None,)

    def sliced(self, architecture: Mapping[str, Any]) -> tuple[Tensor, None]:
        """The table of a sub-network."""
        if self.sharing == "separate" and self._candidates():
            return self._own(architecture)
        return masks.cut(self.weight, self.sizes, LEADING, architecture), None

    def plain(self, architecture: Mapping[str, Any]) -> nn.Embedding:
        """The layer of a sub-network."""
        weight, _ = self.sliced(architecture)
        return holding(nn.Embedding(*weight.shape, device="meta"), weight, None)

    @staticmethod
    def _initialised(weight: Tensor, generator: torch.Generator | None) -> Tensor:
        return nn.init.normal_(weight, std=0.02, generator=generator)

    def _superposed_bias(self) -> None:
        return None

    def _compute(self, x: Tensor, weight: Tensor, bias: None) -> Tensor:
        return functional.embedding(x, weight)

    def _padded(self, y: Tensor) -> Tensor:
        return functional.pad(y, (0, self.embedding_dim - y.shape[-1]))


def _decided(choice: Any) -> str:
    """The name under which an architecture says what a choice, or a part's parent, is."""
    return choice.parent.name if isinstance(choice, Part) else choice.name


def holding(layer: nn.Module, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    """A layer made on the meta device with copies of these tensors for parameters."""
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            setattr(layer, name, nn.Parameter(tensor.detach().clone()))
    return layer

"""The modules that stand in for one layer: Parallel, Factorized and Doped (arXiv 2303.11525, section 3).

Each takes what the layer took and gives what it gave, at the same stride. Which of its weights are
masked, ``sparse_layers`` says; masks themselves are in :mod:`methods.prune.sparse_training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

Activation = Literal["default", "none", "relu", "gelu", "norm", "norm_relu"]
ACTIVATIONS = ("default", "none", "relu", "gelu", "norm", "norm_relu")
Layer = nn.Linear | nn.Conv2d


def sizes(layer: Layer) -> tuple[int, int]:
    """(D_in, D_out); a convolution's D_in is kernel height x width x input channels."""
    return layer.weight[0].numel(), layer.weight.shape[0]


def like(layer: Layer, outputs: int, bias: bool) -> Layer:
    """A fresh layer with the inputs, kernel, stride and padding of ``layer`` and other outputs."""
    place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, outputs, bias, **place)
    made = nn.Conv2d(
        layer.in_channels,
        outputs,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.dilation,
        bias=bias,
        padding_mode=layer.padding_mode,
        **place,
    )
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def pointwise(layer: Layer, inputs: int, bias: bool) -> Layer:
    """A fresh layer from ``inputs`` features to the outputs of ``layer``, without a neighbourhood."""
    place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    outputs = layer.weight.shape[0]
    if isinstance(layer, nn.Linear):
        return nn.Linear(inputs, outputs, bias, **place)
    made = nn.Conv2d(inputs, outputs, 1, bias=bias, **place)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def activation(name: Activation, features: int, layer: Layer) -> nn.Module:
    """The module between two products. Raises ValueError: a norm for a linear layer, unknown names."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r}: allowed are {', '.join(ACTIVATIONS)}")
    if name.startswith("norm") and isinstance(layer, nn.Linear):
        raise ValueError(
            f"activation {name!r} normalises channels of images; linear layers have none"
        )
    place = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if name == "norm":
        return nn.BatchNorm2d(features, **place)
    if name == "norm_relu":
        return nn.Sequential(nn.BatchNorm2d(features, **place), nn.ReLU())
    return {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU}[name]()


class Parallel(nn.Module):
    """sum_j f(W_j x) over ``branches`` copies of a layer, f their non-linearity.

    The branches are one layer with their outputs side by side, which is the same function and one
    product instead of many. By default f is a batch normalisation for convolutions (the published
    block normalises each branch and has one activation after the sum) and ReLU for linear layers.
    """

    def __init__(self, layer: Layer, branches: int, activation_name: Activation = "default"):
        super().__init__()
        if activation_name == "default":
            activation_name = "relu" if isinstance(layer, nn.Linear) else "norm"
        self.settings = {
            "family": "parallel",
            "branches": branches,
            "activation_name": activation_name,
        }
        self.branches = branches
        outputs = layer.weight.shape[0]
        self.stacked = like(layer, branches * outputs, layer.bias is not None)
        self.activation = activation(activation_name, branches * outputs, layer)
        self.axis = -1 if isinstance(layer, nn.Linear) else 1

    def forward(self, x: Tensor) -> Tensor:
        """[..., D_in] to [..., D_out], or [n, c, h, w] to [n, D_out, h', w']."""
        y = self.activation(self.stacked(x))
        axis = self.axis % y.dim()
        return y.unflatten(axis, (self.branches, -1)).sum(axis)

    def sparse_layers(self) -> list[str]:
        """Names of the masked layers inside."""
        return ["stacked"]


class Factorized(nn.Module):
    """V^T f(U^T x) with ``rank`` features between; U has the kernel and stride, V is pointwise.

    By default f is batch normalisation and ReLU for convolutions, as in the published configurations,
    and ReLU for linear layers.
    """

    def __init__(self, layer: Layer, rank: int, activation_name: Activation = "default"):
        super().__init__()
        if activation_name == "default":
            activation_name = "relu" if isinstance(layer, nn.Linear) else "norm_relu"
        self.settings = {"family": "factorized", "rank": rank, "activation_name": activation_name}
        self.u = like(layer, rank, bias=False)
        self.activation = activation(activation_name, rank, layer)
        self.v = pointwise(layer, rank, layer.bias is not None)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D_in] to [..., D_out], or [n, c, h, w] to [n, D_out, h', w']."""
        return self.v(self.activation(self.u(x)))

    def sparse_layers(self) -> list[str]:
        """Names of the masked layers inside."""
        return ["u", "v"]


class Doped(nn.Module):
    """W_s^T x + V^T U^T x: the layer, to be masked, and beside it a dense product of ``rank`` > 0.

    U and V stay dense. (The published code masks them too, which costs (1-s)(1+s) of the budget.)
    """

    def __init__(self, layer: Layer, rank: int):
        super().__init__()
        if rank < 1:
            raise ValueError(
                f"a doped layer of rank {rank}: without a dense term the layer stays as it is"
            )
        self.settings = {"family": "doped", "rank": rank}
        self.sparse = layer
        self.u = like(layer, rank, bias=False)
        self.v = pointwise(layer, rank, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D_in] to [..., D_out], or [n, c, h, w] to [n, D_out, h', w']."""
        return self.sparse(x) + self.v(self.u(x))

    def sparse_layers(self) -> list[str]:
        """Names of the masked layers inside."""
        return ["sparse"]

    @torch.no_grad()
    def folded(self) -> Layer:
        """One dense layer with the same outputs: W_s + V^T U^T is of the layer's own shape."""
        layer = like(self.sparse, self.sparse.weight.shape[0], self.sparse.bias is not None)
        product = self.v.weight.flatten(1) @ self.u.weight.flatten(1)
        layer.weight.copy_(self.sparse.weight + product.view_as(self.sparse.weight))
        if layer.bias is not None:
            layer.bias.copy_(self.sparse.bias)
        return layer


STAND_INS: dict[str, type[nn.Module]] = {
    "parallel": Parallel,
    "factorized": Factorized,
    "doped": Doped,
}


def described(model: nn.Module) -> dict[str, dict[str, Any]]:
    """{name of a stand-in: how to make it again}, as plain values."""
    kinds = tuple(STAND_INS.values())
    return {name: dict(m.settings) for name, m in model.named_modules() if isinstance(m, kinds)}


def installed(model: nn.Module, description: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """The model with stand-ins where `described` says, in place (or the stand-in of the model itself)."""
    for name, settings in description.items():
        rest = {key: value for key, value in settings.items() if key != "family"}
        stand = STAND_INS[settings["family"]](model.get_submodule(name), **rest)
        parent, _, own = name.rpartition(".")
        if not own:
            return stand
        setattr(model.get_submodule(parent), own, stand)
    return model

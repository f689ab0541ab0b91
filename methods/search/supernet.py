"""Any torch module as a super-network: which of its layers have a choice, and what is cut out of it.

    width, kernel = Choice("width", (8, 16, 32)), Choice("kernel", (3, 5, 7))
    supernet = Supernet(net, {
        "conv1": {"out": width, "kernel": kernel}, "norm1": {"width": width}, "conv2": {"in": width},
    })

The module is the largest network of the space and is changed in place: named layers are replaced by
entangled ones that hold the same parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from methods.search.choices import Architecture, Choice, Part, Size, Space
from methods.search.layers import (
    EntangledConv2d,
    EntangledEmbedding,
    EntangledLinear,
    Sharing,
)
from methods.search.mixing import Attention, EntangledAttention, EntangledDepth, EntangledOps
from methods.search.mixture import Mixture
from methods.search.norms import EntangledBatchNorm, EntangledLayerNorm
from methods.search.samplers import Sampler
from methods.study.errors import RetrofitError, choices

Plan = Mapping[str, Mapping[str, Any]]
"""`{dotted name of a layer: {axis: size}}`; see `AXES` for the axes of each kind of layer."""

SPREAD = 1e-3
"""Deviation of the first architecture parameters, as published."""

AXES: dict[type[nn.Module], tuple[type[nn.Module], dict[str, str]]] = {
    nn.Linear: (EntangledLinear, {"out": "outputs", "in": "inputs"}),
    nn.Conv2d: (EntangledConv2d, {"out": "outputs", "in": "inputs", "kernel": "kernel"}),
    nn.Embedding: (EntangledEmbedding, {"width": "outputs"}),
    nn.BatchNorm1d: (EntangledBatchNorm, {"width": "outputs"}),
    nn.BatchNorm2d: (EntangledBatchNorm, {"width": "outputs"}),
    nn.LayerNorm: (EntangledLayerNorm, {"width": "outputs"}),
    Attention: (EntangledAttention, {"heads": "heads", "width": "embedding"}),
    nn.Sequential: (EntangledDepth, {"depth": "depth"}),
}


class Supernet(nn.Module):
    """The super-network, its space, and one vector of architecture parameters for each decision.

    module: the largest network. plan: its layers with choices. sharing: see
    :mod:`methods.search.layers`. seed: of the architecture parameters and of separate weights.

    Called as the module is; under no `mixture.under(…)` it is the sub-network of `architecture()`.
    Raises RetrofitError: no choice at all, a layer or an axis that is not there, a size that is no
    slice of the super-weight, heads that do not divide, a kind of layer that cannot have a choice.
    """

    def __init__(
        self, module: nn.Module, plan: Plan, sharing: Sharing = "entangled", seed: int = 0
    ):
        super().__init__()
        self.mixture = _mixture_of(module) or Mixture()
        self.module = module
        for name, axes in plan.items():
            self.module = entangle_layer(self.module, name, axes, self.mixture)
        layers = [layer for layer in self.module.modules() if hasattr(layer, "decisions")]
        self.space = Space.of(d for layer in layers for d in layer.decisions)
        generator = torch.Generator().manual_seed(seed)
        for layer in layers:
            if hasattr(layer, "share"):
                layer.share(sharing, generator)
        self.sharing = sharing
        self.alphas = nn.ParameterList(
            SPREAD * torch.randn(len(choice.options), generator=generator)
            for choice in self.space.choices.values()
        )

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """The module's own forward, of the mixture or sub-network that holds."""
        if self.mixture.weights is None and self.mixture.chosen is None:
            with self.mixture.under(chosen=self.architecture()):
                return self.module(*inputs, **keywords)
        return self.module(*inputs, **keywords)

    def weights(self) -> list[nn.Parameter]:
        """What a weight step trains: never the architecture parameters."""
        return list(self.module.parameters())

    def sample(self, sampler: Sampler) -> dict[str, Tensor]:
        """Architecture weights by name, differentiable in the architecture parameters."""
        return {
            name: sampler.draw(alpha)
            for name, alpha in zip(self.space.choices, self.alphas, strict=True)
        }

    def architecture(self) -> Architecture:
        """The option of the largest parameter for each decision."""
        return self.space.at(int(alpha.argmax()) for alpha in self.alphas)

    def extract(self, architecture: Mapping[str, Any] | None = None) -> nn.Module:
        """A plain torch module of one architecture (default: the present one), with copies of its weights.

        Its forward is that of the super-network under this architecture.
        """
        chosen = self.space.check(architecture or self.architecture())
        with torch.no_grad():
            return _plain(copy.deepcopy(self.module), chosen, {})

    @torch.no_grad()
    def verify(self, *inputs: Any, architectures: int = 4, tolerance: float = 1e-4) -> None:
        """Hold the super-network with one-hot weights against cut-out sub-networks on example inputs.

        Raises RetrofitError, naming the architecture, where a sub-network does not run or gives
        something else: an axis is missing from the plan then, mostly the inputs of a next layer.
        """
        import numpy

        generator = numpy.random.default_rng(0)
        training = self.training
        self.eval()
        some = [self.space.random(generator) for _ in range(architectures)]
        for chosen in [self.space.at([0] * len(self.alphas)), self.space.largest(), *some]:
            wanted = self.under_one_hot(chosen, *inputs)
            try:
                found = self.extract(chosen)(*inputs)
            except RuntimeError as error:
                raise RetrofitError(
                    f"the sub-network {chosen} does not run: {str(error).strip().splitlines()[0]}; "
                    "is every layer that reads a chosen width in the plan?"
                ) from None
            gap = float((found - wanted).abs().max()) if found.shape == wanted.shape else None
            if gap is None or gap > tolerance * (1 + float(wanted.abs().max())):
                raise RetrofitError(
                    f"the sub-network {chosen} gives another output than the super-network "
                    f"({'another shape' if gap is None else f'off by {gap:.2g}'}); "
                    "is every layer that reads a chosen width in the plan?"
                )
        self.train(training)

    def under_one_hot(self, architecture: Mapping[str, Any], *inputs: Any) -> Any:
        """The forward of the mixture whose weights are one-hot at an architecture."""
        one_hot = {
            name: torch.eye(len(choice.options), device=self.alphas[0].device)[
                choice.index(architecture[name])
            ]
            for name, choice in self.space.choices.items()
        }
        with self.mixture.under(weights=one_hot):
            return self.module(*inputs)


def entangle_layer(
    root: nn.Module, name: str, axes: Mapping[str, Size], mixture: Mixture
) -> nn.Module:
    """Put an entangled layer in the place of the one called ``name``; the (perhaps new) root."""
    known = {found for found, _ in root.named_modules()}
    if name not in known:
        raise RetrofitError(f"there is no layer '{name}'; {choices(name, sorted(known - {''}))}")
    layer = root.get_submodule(name)
    if isinstance(layer, nn.ModuleDict):
        made = _operations(layer, name, axes, mixture)
    else:
        if type(layer) not in AXES:
            raise RetrofitError(
                f"layer {name} is {type(layer).__name__}, which cannot have a choice; known are "
                f"{', '.join(kind.__name__ for kind in AXES)}, and ModuleDict for operations"
            )
        kind, allowed = AXES[type(layer)]
        for axis in axes:
            if axis not in allowed:
                raise RetrofitError(
                    f"layer {name} ({type(layer).__name__}) has no axis '{axis}'; "
                    f"{choices(axis, allowed)}"
                )
        made = kind(
            layer,
            mixture=mixture,
            name=name,
            **{allowed[axis]: size for axis, size in axes.items()},
        )
        if isinstance(layer, Attention) and "width" in axes:
            for part in "qkvo":
                size = {"out": axes["width"], "in": axes["width"]}
                entangle_layer(made, part, size, mixture)
    made.train(layer.training)
    if not name:
        return made
    parent, _, own = name.rpartition(".")
    setattr(root.get_submodule(parent), own, made)
    return root


def reset(module: nn.Module, seed: int) -> nn.Module:
    """Fresh weights, the same ones for the same seed.

    By each layer's own initialisation, but embeddings as GPT-2's: normal with deviation 0.02.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in module.modules():
            again: Callable[[], None] | None = getattr(layer, "reset_parameters", None)
            if again is not None:
                again()
            if isinstance(layer, nn.Embedding):
                nn.init.normal_(layer.weight, std=0.02)
    return module


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[Tensor], forward: Any = None) -> None:
    """Running statistics of batch normalisation from these batches alone (their plain average).

    A super-network's statistics are those of its mixtures; a sub-network's are its own.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    training = module.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    module.train()
    for batch in batches:
        (forward or module)(batch)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    module.train(training)


def _operations(
    layer: nn.ModuleDict, name: str, axes: Mapping[str, Any], mixture: Mixture
) -> EntangledOps:
    """A dictionary of modules as operations that share nothing, one for each option."""
    if set(axes) != {"op"}:
        raise RetrofitError(f"layer {name} holds operations: give it the axis 'op'")
    choice: Choice = axes["op"]
    parts = {key: Part.of(choice, {key: 1}) for key in layer if key in choice.options}
    return EntangledOps(choice, {key: layer[key] for key in parts}, parts, mixture)


def _plain(module: nn.Module, architecture: Architecture, done: dict[int, nn.Module]) -> nn.Module:
    if id(module) in done:
        return done[id(module)]
    known = id(module)
    while hasattr(module, "plain"):
        module = module.plain(architecture)
    done[known] = module
    for name, child in list(module._modules.items()):
        if child is not None:
            module._modules[name] = _plain(child, architecture, done)
    return module


def _mixture_of(module: nn.Module) -> Mixture | None:
    """The mixture of layers that were entangled when the module was built."""
    found = [layer.mixture for layer in module.modules() if hasattr(layer, "mixture")]
    return found[0] if found else None

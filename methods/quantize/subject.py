"""What learned rounding needs of the network that it works on: a language model or a vision network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from methods.export.packed import PackedWeight
from methods.fit.batches import as_batch_first, standardise, subset
from methods.models.blocks import in_dtype
from methods.models.chain import Chain, ImageChain, TextChain
from methods.models.language import LanguageModel
from methods.models.networks.folding import fold_batch_norms
from methods.models.networks.network import Network
from methods.quantize import bit_allocation
from methods.quantize.calibration import calibration_windows
from methods.quantize.gptq import round_block
from methods.quantize.grid import Grid, round_to_nearest
from methods.quantize.params import GPTQ
from methods.quantize.scale_tuning import divergence, tune_scales
from methods.quantize.targets import noted
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.quantize.learned_params import LearnedRounding
    from methods.run.context import Context

IMAGES = 256
"""Calibration images where a study names no limit."""
SENSITIVITY_BATCHES = 4
"""Batches on which gradients of the float network are taken."""


class Subject(ABC):
    """A network with its calibration data. `dtype` is what is computed in."""

    kinds: ClassVar[tuple[type, ...]] = (nn.Linear,)
    network: nn.Module
    chain: Chain
    dtype: torch.dtype
    described: str

    def layers(self) -> dict[str, nn.Module]:
        """`{full name: layer}` of everything that can be quantised, in order."""
        found = {}
        for prefix, block in self.chain.blocks:
            for name, module in block.named_modules():
                if isinstance(module, self.kinds):
                    found[f"{prefix}.{name}".rstrip(".")] = module
        if not found:
            raise RetrofitError(
                f"the blocks of {type(self.network).__name__} have no layer that can be quantised"
            )
        return found

    def computing(self, module: nn.Module) -> AbstractContextManager:
        """`module` in the dtype of computing, inside the `with`."""
        return in_dtype(module, self.dtype)

    @abstractmethod
    def batches(self) -> list[Tensor]:
        """A few batches of network inputs, for gradients of the float network."""

    @abstractmethod
    def logits(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """The network's logits with some weights replaced."""

    def loss(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """The task loss on what the network itself predicts first, which needs no labels."""
        logits = self.logits(x, weights).float().flatten(0, -2)
        return cross_entropy(logits, logits.detach().argmax(-1))

    def compensated(
        self, name: str, block: nn.Module, hidden: Tensor, params: LearnedRounding
    ) -> dict[str, PackedWeight]:
        """Where learning starts, by layer of the block; empty for the nearest codes."""
        if params.start == "gptq":
            raise RetrofitError("start: gptq works on language models; use start: nearest")
        return {}

    def output_fisher(self, context: Context) -> dict[str, Tensor]:
        """Mean squared gradient of the loss by output channel of every block, scaled to mean 1."""
        sums: dict[str, Tensor] = {}

        def note(name: str) -> Callable:
            def hook(_: nn.Module, __: Any, output: Any) -> None:
                out = output[0] if isinstance(output, tuple) else output

                def add(grad: Tensor) -> None:
                    last = grad.movedim(1, -1) if grad.dim() == 4 else grad
                    square = last.float().square().flatten(0, -2).mean(0)
                    sums[name] = sums.get(name, 0) + square

                out.register_hook(add)

            return hook

        hooks = [block.register_forward_hook(note(name)) for name, block in self.chain.blocks]
        anchor = next(iter(self.layers().values())).weight
        anchor.requires_grad_(True)  # so that a graph is built at all
        try:
            with self.computing(self.network):
                for x in context.progress(self.batches(), label="Fisher information"):
                    self.loss(x, {}).backward()
        finally:
            anchor.requires_grad_(False)
            anchor.grad = None
            for hook in hooks:
                hook.remove()
        return {name: square / square.mean().clamp(min=1e-30) for name, square in sums.items()}

    def allocation(
        self, names: list[str], params: LearnedRounding, context: Context
    ) -> dict[str, int]:
        """Bits of each layer under the budget, by the importance that the study names."""
        mixed, layers = params.mixed_precision, self.layers()
        mean, square = {}, {}
        if mixed.importance in ("taylor", "fisher"):
            mean, square = self.gradients(names, context)
        generator = context.generator("random importance")
        costs, sizes = [], []
        for name in names:
            weight = layers[name].weight.detach().float().flatten(1)
            grid = Grid.of(params)
            row = []
            for bits in mixed.candidates:
                delta = round_to_nearest(weight, replace(grid, bits=bits)).dequantize() - weight
                row.append(
                    {
                        "taylor": lambda d: bit_allocation.taylor(mean[name], d),  # noqa: B023
                        "fisher": lambda d: bit_allocation.fisher(square[name], d),  # noqa: B023
                        "sqnr": lambda d: bit_allocation.sqnr(weight, d),  # noqa: B023
                        "random": lambda d: 1.0,
                    }[mixed.importance](delta)
                )
            if mixed.importance == "random":
                scale = float(torch.rand((), generator=generator))
                row = [scale / bits for bits in mixed.candidates]
            costs.append(row)
            sizes.append(weight.numel())
        found = bit_allocation.allocate(costs, sizes, mixed.candidates, mixed.average_bits)
        return dict(zip(names, found, strict=True))

    def gradients(
        self, names: list[str], context: Context
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Mean and mean square over batches of the loss's gradient, `[out, in]` by layer."""
        layers = {name: self.layers()[name] for name in names}
        mean = {n: torch.zeros_like(m.weight).flatten(1) for n, m in layers.items()}
        square = {n: torch.zeros_like(g) for n, g in mean.items()}
        batches = self.batches()
        for module in layers.values():
            module.weight.requires_grad_(True)
        try:
            with self.computing(self.network):
                for x in context.progress(batches, label="importance"):
                    self.loss(x, {}).backward()
                    for name, module in layers.items():
                        grad = module.weight.grad.float().flatten(1)
                        mean[name] += grad / len(batches)
                        square[name] += grad.square() / len(batches)
                        module.weight.grad = None
        finally:
            for module in layers.values():
                module.weight.requires_grad_(False)
                module.weight.grad = None
        return mean, square

    def finish(
        self, packed: dict[str, PackedWeight], params: LearnedRounding, context: Context
    ) -> dict[str, Metric]:
        """Tune all scales together; updates `packed` and the network's weights."""
        layers = self.layers()
        shapes = {name: layers[name].weight.shape for name in packed}
        for name in packed:  # given from outside all along: no second copy of most of the network
            layers[name].weight.data = torch.empty(0)
        with in_dtype(self.network, self.dtype):
            tuned, (first, last) = tune_scales(
                self.logits,
                self.float_weights,
                packed,
                shapes,
                self.network_inputs(),
                params.finish,
                getattr(torch, params.scale_dtype),
                self.dtype,
                context,
            )
        packed |= tuned
        for name, weight in tuned.items():
            layer = layers[name]
            layer.weight.data = weight.dequantize().view(shapes[name])
        context.log.info("scales: divergence %.4g -> %.4g", first, last)
        return {
            "finish/first": Metric(first, unit="nat", higher_is_better=False),
            "finish/last": Metric(last, unit="nat", higher_is_better=False),
        }

    def keep_float_weights(self, params: LearnedRounding) -> None:
        """The teacher of the last pass: the layers' weights before anything is rounded."""
        self.float_weights = {}
        if params.finish is not None:
            self.float_weights = {
                f"{name}.weight": layer.weight.detach().to(self.dtype, copy=True)
                for name, layer in self.layers().items()
            }

    @abstractmethod
    def network_inputs(self) -> Tensor:
        """All calibration inputs of the network."""

    @abstractmethod
    def result(
        self, packed: dict[str, PackedWeight], facts: dict[str, Any], metrics: dict[str, Metric]
    ) -> Any:
        """The payload of the run."""


class TextSubject(Subject):
    """A causal language model and windows of text."""

    def __init__(self, base: LanguageModel, data: dict, params: LearnedRounding, context: Context):
        self.base, self.params = base, params
        self.network = base.model.to(context.device)
        self.dtype = getattr(torch, params.compute_dtype)
        self.tokens = calibration_windows(data, base.tokenizer, context)
        self.described = f"{list(self.tokens.shape)} of {data['calibration'][0].name}"
        if params.noise_calibration:
            self.tokens = torch.randint(
                self.network.config.vocab_size,
                self.tokens.shape,
                generator=context.generator("noise"),
            )
            self.described = f"{list(self.tokens.shape)} random tokens"
        self.chain = TextChain(self.network, self.tokens, self.dtype)
        self.keep_float_weights(params)

    def batches(self) -> list[Tensor]:
        """Single windows."""
        return list(self.tokens[:SENSITIVITY_BATCHES].split(1))

    def network_inputs(self) -> Tensor:
        """The calibration windows."""
        return self.tokens

    def logits(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """`[b, T, vocabulary]`."""
        x = x.to(self.network.device)
        return functional_call(self.network, weights, (x,), {"use_cache": False}).logits

    def compensated(
        self, name: str, block: nn.Module, hidden: Tensor, params: LearnedRounding
    ) -> dict[str, PackedWeight]:
        """The column solver's rounding of the block; the block itself stays as it is."""
        if params.start != "gptq":
            return {}
        span = params.range
        settings = GPTQ(
            bits=params.bits,
            group_size=params.group_size,
            symmetric=params.symmetric,
            scale_dtype=params.scale_dtype,
            range=span,
        )
        kept = {n: p.data for n, p in block.named_parameters()}
        with torch.no_grad():
            found = round_block(name, block, hidden, self.chain.arguments, settings, {})
        for n, p in block.named_parameters():
            p.data = kept[n]
        return found

    def result(
        self, packed: dict[str, PackedWeight], facts: dict[str, Any], metrics: dict[str, Metric]
    ) -> LanguageModel:
        """A language model whose layers are packed (or, on a power grid, simulated)."""
        self.network.requires_grad_(False)
        facts = {key: value for key, value in facts.items() if key != "bits"}
        return replace(
            self.base,
            quantized=packed,
            notes=noted(self.base, self.params, facts),
            metrics=metrics,
        )


class ImageSubject(Subject):
    """A vision network and images; convolutions are quantised like linear layers, row by row."""

    kinds = (nn.Linear, nn.Conv2d)

    def __init__(self, base: Network, data: dict, params: LearnedRounding, context: Context):
        if not data.get("calibration"):
            raise RetrofitError("calibration needs images: give the study `data: {calibration: …}`")
        images = data["calibration"][0]
        if not hasattr(images, "x") or images.x.dtype.kind != "u":
            raise RetrofitError(f"calibration needs images, and {images.name} is none")
        self.base, self.params, self.context = base, params, context
        self.network = base.module.to(context.device).eval().requires_grad_(False)
        self.dtype = getattr(torch, params.compute_dtype)
        wanted = (getattr(images, "options", None) or {}).get("limit") or IMAGES
        if wanted > len(images.x):
            raise RetrofitError(
                f"{images.name} has {len(images.x)} images, and calibration asks for {wanted}"
            )
        order = torch.randperm(len(images.x), generator=context.generator("calibration"))
        chosen = as_batch_first(images.x[order[:wanted].numpy()], context.device)
        self.described = f"{wanted} of {images.name}"
        if params.noise_calibration:
            noise = torch.randint(0, 256, chosen.shape, generator=context.generator("noise"))
            chosen, self.described = noise.to(chosen), f"{wanted} images of noise"
        self.images = standardise(chosen, base.mean, base.std)
        self.test = list(data.get("test") or [])
        self.before = {t.name: base.logits(_x(t), 250) for t in self.test}
        fold_batch_norms(self.network, self.images[:2])
        self.chain = ImageChain(self.network, self.images.to(self.dtype))
        self.keep_float_weights(params)

    def batches(self) -> list[Tensor]:
        """Batches of 32."""
        return list(self.images.to(self.dtype).split(32)[:SENSITIVITY_BATCHES])

    def network_inputs(self) -> Tensor:
        """The calibration images."""
        return self.images.to(self.dtype)

    def logits(self, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """`[b, classes]`."""
        return functional_call(self.network, weights, (x,))

    def result(
        self, packed: dict[str, PackedWeight], facts: dict[str, Any], metrics: dict[str, Metric]
    ) -> Network:
        """The network with packed layers, and how far its logits moved on the role `test`."""
        for images in self.test:
            found = self.base.logits(_x(images), 250)
            metrics |= fidelity(images.name, self.before[images.name], found)
        notes = self.base.notes | {"quantize": [{self.params.method: facts}]}
        return replace(self.base, quantized=packed, notes=notes, metrics=metrics)


def _x(images: Any) -> Any:
    """The images that the study asks for, the same ones as in every measure."""
    limit = (getattr(images, "options", None) or {}).get("limit")
    return images.x[subset(len(images.x), limit)]


def fidelity(name: str, wanted: Tensor, found: Tensor) -> dict[str, Metric]:
    """`fidelity/kl/<set>` (nats, one value for each image) and `fidelity/agreement/<set>`."""
    kl = torch.stack([divergence(f[None], w[None]) for f, w in zip(found, wanted, strict=True)])
    same = (found.argmax(-1) == wanted.argmax(-1)).double()
    labels = [str(i) for i in range(len(kl))]
    parts = {"kl": (kl.double(), "nat", False), "agreement": (same, "", True)}
    metrics = {}
    for part, (values, unit, higher) in parts.items():
        stderr = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
        metrics[f"fidelity/{part}/{name}"] = Metric(
            float(values.mean()), stderr, len(values), unit, higher, values.tolist(), labels
        )
    return metrics


def subject_of(base: Any, data: dict, params: LearnedRounding, context: Context) -> Subject:
    """The subject for whatever the base is; RetrofitError where it is nothing that can be quantised."""
    if base is None:
        raise RetrofitError(f"{params.method} needs a base model: give the study a `base:`")
    if getattr(base, "quantized", None):
        raise RetrofitError(
            f"{params.method}: the model is quantised already ({len(base.quantized)} layers); "
            "start from a float model"
        )
    if isinstance(base, LanguageModel):
        return TextSubject(base, data, params, context)
    if isinstance(base, Network):
        return ImageSubject(base, data, params, context)
    raise RetrofitError(f"{params.method} cannot quantise a {type(base).__name__}")

"""Gradient-based post-training quantisation (Yvinec et al., 2308.07662): learn how weights are rounded.

Block by block: the float block's outputs are the target, the block is fed with the features of the
network as quantised so far, and the rounding variables of its layers (`rounding_variables.py`) are
learned by gradients (`reconstruct.py`). Then, where a study asks for it, all scales learn together
from the float network's logits (`scale_tuning.py`). Bits can differ by layer (`bit_allocation.py`).

*Fidelity.* Only the abstract of the paper could be read: it asks which practices matter (weight
selection, feature augmentation, calibration data; loss, degrees of freedom, non-uniform grids;
variable, optimiser) and proposes importance-based mixed precision. The frame, its settings and the
mixed precision are our reconstruction, from the published code of AdaRound / BRECQ, QDrop and
AutoRound and the authors' other papers. AdaRound: `parametrisation: adaround, optimizer: adam,
learn_range: false`; BRECQ adds `granularity: block, inputs: quantised` (its released script has the
plain squared error, as here); QDrop `inputs: mixed`; AutoRound is the default, with `start: nearest`.
Activations stay in floating point, as in the language-model work. Chosen here: a block whose learned
rounding is no better than what it started from keeps the latter.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from methods.export.packed import PackedWeight
from methods.models.blocks import in_dtype
from methods.models.chain import Chain
from methods.quantize.grid import Grid, grouped, least_error_range, scale_and_zero, weight_range
from methods.quantize.reconstruct import Features, Learned, reconstruct
from methods.quantize.rounding_variables import VARIABLES, UniformVariable, Variable
from methods.quantize.subject import Subject, subject_of
from methods.quantize.widths import check_group_size
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.quantize.learned_params import LearnedRounding
    from methods.run.context import Context

SECONDS_BETWEEN_CHECKPOINTS = 20


def apply(base: Any, data: dict, params: LearnedRounding, context: Context) -> Any:
    """The quantised network, of the kind of the base (a `LanguageModel` or a `Network`).

    Raises RetrofitError: no base, quantised already, group size that does not divide a layer, weights
    or features that are not finite, calibration too short, patterns that match no layer, nothing
    quantised.
    """
    subject = subject_of(base, data, params, context)
    plan = Plan.make(subject, params, context)
    chain = subject.chain
    done = Progress.resume(context, chain)
    generator_seed = context.seed_for("learned rounding")
    for index, (name, block) in enumerate(
        context.progress(chain.blocks, label=params.parametrisation)
    ):
        layers = plan.of_block(name, block)
        if index < done.blocks:
            done.put_back(name, block, layers)
            continue
        generator = torch.Generator().manual_seed(generator_seed ^ (index + 1))
        quantize_block(name, block, layers, subject, plan, params, done, generator, context)
        if context.checkpoint.every(SECONDS_BETWEEN_CHECKPOINTS):
            done.save(context)
    metrics = done.metrics()
    if params.finish is not None:
        metrics |= subject.finish(done.packed, params, context)
    if not done.packed and not done.simulated:
        raise RetrofitError("learned_rounding quantised no layer; look at keep_dense")
    facts = {
        "bits": params.bits,
        "parametrisation": params.parametrisation,
        "calibration": subject.described,
    }
    if plan.kept:
        facts["kept dense"] = plan.kept
    if len(set(plan.bits.values())) > 1:
        facts["bits by layer"] = plan.bits
    return subject.result(done.packed, facts, metrics)


@dataclass
class Plan:
    """Which layers, with how many bits, and why others are left.

    bits: by full name. kept: full name to reason. fisher: by block, the channel weights of the loss.
    """

    bits: dict[str, int]
    kept: dict[str, str]
    fisher: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def make(cls, subject: Subject, params: LearnedRounding, context: Context) -> Plan:
        """From the settings; mixed precision and Fisher weights need gradients of the float network."""
        layers = subject.layers()
        for kind, patterns in (
            ("keep_dense", params.keep_dense),
            ("eight_bits", params.eight_bits),
        ):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in layers):
                    raise RetrofitError(
                        f"{kind}: '{pattern}' matches no layer; layers are {', '.join(list(layers)[:4])}, …"
                    )
        bits, kept = {}, {}
        for name in layers:
            if any(fnmatchcase(name, pattern) for pattern in params.keep_dense):
                kept[name] = "keep_dense"
            elif any(fnmatchcase(name, pattern) for pattern in params.eight_bits):
                bits[name] = 8
            else:
                bits[name] = params.bits
        if not bits:
            raise RetrofitError("learned_rounding: keep_dense leaves no layer to quantise")
        check_group_size({n: layers[n].weight[0].numel() for n in bits}, params.group_size)
        for name in bits:
            if not torch.isfinite(layers[name].weight).all():
                raise RetrofitError(
                    f"learned_rounding: the weight of {name} is not finite (NaN or infinity)"
                )
        fisher = {}
        if params.loss == "fisher":
            fisher = subject.output_fisher(context)
        if params.mixed_precision is not None:
            free = [n for n in bits if bits[n] == params.bits]
            bits |= subject.allocation(free, params, context)
        return cls(bits, kept, fisher)

    def of_block(self, name: str, block: nn.Module) -> dict[str, nn.Module]:
        """`{name inside the block: layer}` of what is quantised in it."""
        prefix = f"{name}."
        found = {
            full.removeprefix(prefix): block.get_submodule(full.removeprefix(prefix))
            for full in self.bits
            if full.startswith(prefix)
        }
        if name in self.bits:  # the block is the layer
            found[""] = block
        return found


@dataclass
class Progress:
    """What is done, and what enters the next block."""

    fp: Tensor
    quantised: Tensor
    blocks: int = 0
    packed: dict[str, PackedWeight] = field(default_factory=dict)
    simulated: dict[str, Tensor] = field(default_factory=dict)
    losses: list[list[float]] = field(default_factory=list)

    @classmethod
    def resume(cls, context: Context, chain: Chain) -> Progress:
        """From the run's checkpoint; at the beginning where there is none."""
        saved = context.checkpoint.load()
        if saved is None:
            return cls(chain.inputs, chain.inputs)
        tensors, state = saved["tensors"], saved["state"]
        packed = {
            name: PackedWeight(*(tensors[f"{part}/{name}"] for part in PARTS), *rest)
            for name, rest in state["packed"].items()
        }
        simulated = {
            name.removeprefix("weight/"): tensor
            for name, tensor in tensors.items()
            if name.startswith("weight/")
        }
        return cls(
            tensors["fp"],
            tensors["quantised"],
            state["blocks"],
            packed,
            simulated,
            state["losses"],
        )

    def save(self, context: Context) -> None:
        """Write the checkpoint."""
        tensors = {"fp": self.fp, "quantised": self.quantised}
        tensors |= {f"weight/{name}": weight for name, weight in self.simulated.items()}
        described = {}
        for name, p in self.packed.items():
            tensors |= {f"{part}/{name}": getattr(p, part) for part in PARTS}
            described[name] = [p.bits, p.group_size, p.symmetric]
        state = {"blocks": self.blocks, "packed": described, "losses": self.losses}
        context.checkpoint.save(tensors, state)

    def put_back(self, name: str, block: nn.Module, layers: dict[str, nn.Module]) -> None:
        """The weights of a block that was done before a stop."""
        for layer, module in layers.items():
            full = f"{name}.{layer}".rstrip(".")
            weight = self.simulated.get(full)
            if weight is None:
                weight = self.packed[full].dequantize()
            module.weight.data = weight.view_as(module.weight).to(module.weight)

    def metrics(self) -> dict[str, Metric]:
        """Mean share of the first loss that is left, over the units that were learned."""
        shares = [last / first for first, last in self.losses if first > 0]
        if not shares:
            return {}
        mean = sum(shares) / len(shares)
        return {"rounding/loss_ratio": Metric(mean, n=len(shares), higher_is_better=False)}


PARTS = ("codes", "scale", "zero")


def quantize_block(
    name: str,
    block: nn.Module,
    layers: dict[str, nn.Module],
    subject: Subject,
    plan: Plan,
    params: LearnedRounding,
    done: Progress,
    generator: torch.Generator,
    context: Context,
) -> None:
    """Quantise one block in place and move the features through it."""
    chain = subject.chain
    wanted = _through(chain, block, done.fp, params.batch)
    if not torch.isfinite(wanted).all():
        raise RetrofitError(f"calibration: the output of {name} is not finite (NaN or infinity)")
    variables = {}
    if layers:
        starts = subject.compensated(name, block, done.quantised, params)
        variables = {
            layer: variable_of(
                layer, module, f"{name}.{layer}".rstrip("."), plan, params, starts, generator
            )
            for layer, module in layers.items()
        }
    learned = []
    if any(list(v.parameters()) for v in variables.values()) and params.parametrisation != "rtn":
        if params.granularity == "block":
            keys = {f"{n}.weight".lstrip("."): v for n, v in variables.items()}
            features = Features(done.fp, done.quantised, wanted, plan.fisher.get(name))
            with subject.computing(block):
                learned.append(
                    reconstruct(
                        lambda x, w: chain.run(block, x, w),
                        keys,
                        features,
                        params,
                        generator,
                        subject.dtype,
                    )
                )
            _store(layers, variables)
        else:
            inputs = _received(subject, block, layers, done.fp, params.batch)
            for layer, variable in variables.items():
                this = {layer: layers[layer]}
                late = _received(subject, block, this, done.quantised, params.batch)[layer]
                learned.append(
                    _learn_layer(
                        layers[layer], variable, inputs[layer], late, subject, params, generator
                    )
                )
                _store(this, {layer: variable})
    elif variables:
        _store(layers, variables)
    for layer, variable in variables.items():
        full = f"{name}.{layer}".rstrip(".")
        if isinstance(variable, UniformVariable):
            done.packed[full] = variable.packed()
        else:
            done.simulated[full] = layers[layer].weight.detach().clone()
    first, last = (sum(getattr(row, part) for row in learned) for part in ("first", "last"))
    if learned:
        kept = sum(row.kept for row in learned)
        done.losses.append([first, min(first, last)])
        context.record(block=name, first=first, last=last, units=len(learned), better=kept)
        context.log.info("%s: loss %.4g -> %.4g", name, first, last)
    done.fp = wanted
    done.quantised = _through(chain, block, done.quantised, params.batch)
    done.blocks += 1


@torch.no_grad()
def _through(chain: Chain, block: nn.Module, x: Tensor, batch: int) -> Tensor:
    with in_dtype(block, x.dtype):
        return torch.cat([chain.run(block, part) for part in x.split(batch)])


def variable_of(
    layer: str,
    module: nn.Module,
    full: str,
    plan: Plan,
    params: LearnedRounding,
    starts: dict[str, PackedWeight],
    generator: torch.Generator,
) -> Variable:
    """The rounding variable of one layer, at its start."""
    weight = module.weight.detach().float().flatten(1)
    grid = replace(Grid.of(params), bits=plan.bits[full])
    groups = grouped(weight, grid.group_size)
    if layer in starts:
        begun = starts[layer]
        scale, zero = begun.scale, begun.zero.float()
        at = begun.dequantize().view_as(groups)
        # Where the solver chose another code than the nearest, its point stands for the weight.
        moved = ((groups - at).abs() > 0.5 * scale.unsqueeze(-1)) & _inside(
            groups, scale, zero, grid
        )
        groups = torch.where(moved, at, groups)
    else:
        low, high = weight_range(groups)
        if params.range == "mse":
            low, high = least_error_range(groups, low, high, grid)
        scale, zero = scale_and_zero(low, high, grid)
    kind = VARIABLES.get(params.parametrisation, VARIABLES["plus_minus_one"])
    free = _free(groups, scale, params, generator)
    return kind(groups.contiguous(), scale, zero, grid, params, free, module.weight.shape)


def _inside(groups: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    codes = groups / scale.unsqueeze(-1) + zero.unsqueeze(-1)
    return (codes >= -0.5) & (codes <= grid.top + 0.5)


def _free(
    groups: Tensor, scale: Tensor, params: LearnedRounding, generator: torch.Generator
) -> Tensor | None:
    """Which weights are learned."""
    rule, ratio = params.selection.rule, params.selection.ratio
    if rule == "all" or ratio == 1:
        return None
    rest = groups / scale.unsqueeze(-1)
    distance = (rest - rest.round()).abs()
    score = {
        "random": lambda: torch.rand(groups.shape, generator=generator),
        "ambiguous": lambda: distance,
        "importance": lambda: distance * scale.unsqueeze(-1),
    }[rule]()
    count = max(1, round(ratio * score.numel()))
    chosen = torch.zeros(score.numel(), dtype=torch.bool)
    chosen[score.flatten().topk(count).indices] = True
    return chosen.view_as(score)


@torch.no_grad()
def _store(layers: dict[str, nn.Module], variables: dict[str, Variable]) -> None:
    for name, module in layers.items():
        variable = variables[name]
        weight = (
            variable.packed().dequantize()
            if isinstance(variable, UniformVariable)
            else variable.weight(soft=False)
        )
        module.weight.data = weight.view_as(module.weight).to(module.weight)


def _learn_layer(
    layer: nn.Module,
    variable: Variable,
    fp: Tensor,
    quantised: Tensor,
    subject: Subject,
    params: LearnedRounding,
    generator: torch.Generator,
) -> Learned:
    """Learn one layer; fp, quantised: its inputs in the float block, and after the layers before it."""

    def run(x: Tensor, weights: dict[str, Tensor] | None) -> Tensor:
        return functional_call(layer, weights or {}, (x,))

    with subject.computing(layer):
        with torch.no_grad():
            wanted = torch.cat([run(part, None) for part in fp.split(params.batch)])
        features = Features(fp, quantised, wanted)
        return reconstruct(run, {"weight": variable}, features, params, generator, subject.dtype)


@torch.no_grad()
def _received(
    subject: Subject, block: nn.Module, layers: dict[str, nn.Module], x: Tensor, batch: int
) -> dict[str, Tensor]:
    """The inputs of some layers of a block when the block is fed with `x`."""
    parts: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, kept=parts[name]: kept.append(args[0]))
        for name, layer in layers.items()
    ]
    try:
        _through(subject.chain, block, x, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(kept) for name, kept in parts.items()}

"""Any network in template form: two small ones that are trained apart and grow into one.

The network that is handed in, at the size to end at, lends its forward pass and nothing else: it is
called with tensors that are half as wide (one member), or as wide as its own (the grown network). So
its layers keep their classes, and whatever the forward pass does between them stays as it is.

    mixture = Mixture(network, example)          # templates drawn anew
    mixture.use(0)                               # train it, then use(1) and train it again
    mixture.grow("orthogonal")                   # train it
    dense = mixture.dense()                      # the network's own class, with ordinary weights
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from methods.grow.coefficients import POLICIES, Policy
from methods.grow.members import Bank, MemberNorm, TemplateLayer
from methods.grow.mixing import Initialisation, assemble
from methods.study.errors import RetrofitError, choices

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
Part = Literal[0, 1, "sum", "grown"]
SETS = (0, 1, 0, 1)
TOLERANCE = 1e-4


class Mixture(nn.Module):
    """A network in template form; see the module's text for its use.

    network: at its final size. It is not changed and its weights do not count.
    example: an input of it; what reads this, and what gives the output, does not grow on that side.
    templates: in each set of a layer, or one number for each set. Two make as many parameters as the
        network has, but for coefficients and the ends.
    sets: the set of templates that each of the four members mixes.
    share: layers of one shape mix the same templates, which are as many as theirs together.
    generator: draws the templates and coefficients.
    initialisation: see :func:`methods.grow.mixing.fresh_coefficients`.
    reads_input, gives_output: names of layers, where they cannot be found by running the network.

    Raises RetrofitError, naming the layer and the reason, for what has no half: parameters outside
    convolutions, linear layers and batch normalisations; groups; tied weights; odd widths; and for
    networks in which two halves side by side do not compute what each computes alone (layer
    normalisation, concatenation of features, sizes written into the forward pass).
    """

    def __init__(
        self,
        network: nn.Module,
        example: Tensor,
        *,
        templates: int | Sequence[int] = 2,
        sets: Sequence[int] = SETS,
        share: bool = False,
        generator: torch.Generator | None = None,
        initialisation: Initialisation = "kaiming",
        reads_input: Sequence[str] | None = None,
        gives_output: Sequence[str] | None = None,
    ):
        super().__init__()
        generator = generator or torch.Generator().manual_seed(0)
        self.sets = _checked_sets(sets)
        per_set = _checked_counts(templates, 1 + max(self.sets))
        _refuse_what_has_no_half(network)
        first, last = _ends(network, example)
        first = set(reads_input) if reads_input is not None else first
        last = set(gives_output) if gives_output is not None else last
        layers = {n: m for n, m in network.named_modules() if isinstance(m, LAYERS)}
        for name in first | last:
            if name not in layers:
                raise RetrofitError(f"there is no layer '{name}'; {choices(name, layers)}")
        if not first or not last:
            side = "reads the input" if not first else "gives the output"
            raise RetrofitError(
                f"no layer {side} of {type(network).__name__} directly, so it is unknown where growth "
                f"ends; name it with {'reads_input' if not first else 'gives_output'}=[…]"
            )
        grows = {name: (name not in last, name not in first) for name in layers}
        shapes = {name: _half(name, layers[name], *grows[name]) for name in layers}
        places: dict[Any, list[str]] = {}
        for name in layers:
            places.setdefault((shapes[name], grows[name]) if share else name, []).append(name)
        self.banks = nn.ModuleDict()
        bank_of: dict[str, Bank] = {}
        for names in places.values():
            counts = [count * len(names) for count in per_set]
            bank = Bank(shapes[names[0]], counts, generator, initialisation)
            self.banks[_key(names[0])] = bank
            bank_of |= dict.fromkeys(names, bank)
        self.layers = nn.ModuleDict()
        for name, layer in layers.items():
            rows, columns = grows[name]
            self.layers[_key(name)] = TemplateLayer(
                bank_of[name],
                rows=rows,
                columns=columns,
                bias=0 if layer.bias is None else shapes[name][0],
                sets=self.sets,
                generator=generator,
                rule=initialisation,
            )
        self.norms = nn.ModuleDict(
            {
                _key(name): MemberNorm(norm)
                for name, norm in network.named_modules()
                if isinstance(norm, NORMS)
            }
        )
        self._constants = {
            name: buffer.detach().clone() for name, buffer in network.named_buffers()
        }
        # The skeleton: a forward pass without weights, and no submodule, or its own would count.
        self.__dict__["network"] = copy.deepcopy(network).to("meta").requires_grad_(False)
        self.part: Part = 0
        self._check(example)

    def use(self, part: Part) -> Mixture:
        """Compute with member 0, member 1, their sum (of outputs), or the grown network.

        Raises RetrofitError for a member of a network that has grown, and before that for "grown".
        """
        if part not in (0, 1, "sum", "grown"):
            raise RetrofitError(f"there is no part {part!r}; allowed: 0, 1, 'sum', 'grown'")
        if (part == "grown") != self.has_grown:
            state = "has grown into one network" if self.has_grown else "has not grown yet"
            raise RetrofitError(f"the mixture {state}, so part {part!r} cannot be used")
        self.part = part
        return self

    @property
    def has_grown(self) -> bool:
        """Are the members one network?"""
        return self.part == "grown"

    def grow(
        self, policy: Policy, noise: float = 1.0, generator: torch.Generator | None = None
    ) -> Mixture:
        """Join the members, in place, with coefficients of the new blocks by ``policy``.

        noise: see :mod:`methods.grow.coefficients`. Parameters stay as many, but those of the
        normalisations are new objects: make the optimiser after this call.
        Raises RetrofitError for an unknown policy, one that does not suit the sets, a second growth.
        """
        if policy not in POLICIES:
            raise RetrofitError(f"there is no policy '{policy}'; {choices(policy, POLICIES)}")
        if self.has_grown:
            raise RetrofitError("the mixture has grown already; a network grows once")
        generator = generator or torch.Generator().manual_seed(0)
        for name, layer in self.layers.items():
            try:
                layer.choose_coefficients(policy, noise, generator)
            except ValueError as error:
                raise RetrofitError(f"layer {_name(name)}: {error}") from None
        for norm in self.norms.values():
            norm.grow()
        self.part = "grown"
        return self

    def tensors(self, part: Literal[0, 1, "grown"]) -> dict[str, Tensor]:
        """Every tensor of a member or of the grown network, by its name in the network.

        Weights are mixed anew and carry gradients to templates and coefficients.
        """
        found: dict[str, Tensor] = {}
        for key, holder in (*self.layers.items(), *self.norms.items()):
            its_own = holder.grown() if part == "grown" else holder.member(part)
            found |= {f"{_name(key)}.{name}": tensor for name, tensor in its_own.items()}
        others = {name: t for name, t in self._constants.items() if name not in found}
        return found | others

    def forward(self, x: Tensor) -> Tensor:
        """What the part in use gives for an input of the network."""
        if self.part == "sum":
            return self._run(0, x) + self._run(1, x)
        return self._run(self.part, x)

    def _run(self, part: Literal[0, 1, "grown"], x: Tensor) -> Tensor:
        return functional_call(self.network, self.tensors(part), (x,))

    def train(self, mode: bool = True) -> Mixture:
        """Training or evaluation mode, also of the skeleton."""
        self.network.train(mode)
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Mixture:
        self._constants = {name: fn(tensor) for name, tensor in self._constants.items()}
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def dense(self) -> nn.Module:
        """The grown network as one of its own class, with ordinary weights that equal the mixtures.

        Raises RetrofitError before growth.
        """
        if not self.has_grown:
            raise RetrofitError("the mixture has not grown yet: its members are two networks")
        values = {name: t.detach().clone() for name, t in self.tensors("grown").items()}
        network = copy.deepcopy(self.network).to_empty(device=next(iter(values.values())).device)
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            tensor.data = values[name]
        return network.train(self.training).requires_grad_(True)

    def coefficients(self) -> list[nn.Parameter]:
        """All alphas, which take no weight decay."""
        return [alpha for layer in self.layers.values() for alpha in layer.coefficients]

    @torch.no_grad()
    def _check(self, example: Tensor) -> None:
        """Members must run, and with nothing between them the grown network must be their sum."""
        training = self.training
        self.eval()
        kind = type(self.network).__name__
        try:
            parts = [self._run(part, example) for part in (0, 1)]
            tensors = self.tensors("grown")
            for key, layer in self.layers.items():
                if len(layer.members) > 2:
                    empty = torch.zeros_like(layer.weight(0))
                    blocks = [layer.weight(0), layer.weight(1), empty, empty]
                    tensors[f"{_name(key)}.weight"] = assemble(blocks, rows=True, columns=True)
            together = functional_call(self.network, tensors, (example,))
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise RetrofitError(
                f"{kind} does not run at half its width ({reason}); its forward pass must take its "
                "sizes from its inputs"
            ) from None
        finally:
            self.train(training)
        alone = parts[0] + parts[1]
        if together.shape != alone.shape or not torch.allclose(
            together, alone, rtol=TOLERANCE, atol=TOLERANCE * float(alone.abs().max())
        ):
            raise RetrofitError(
                f"two halves of {kind} side by side do not give the sum of what each gives alone, so "
                "it cannot grow by joining them; concatenated features, normalisation over channels "
                "and an output other than logits do this"
            )


def _key(name: str) -> str:
    """A module's name as a key of a module dictionary, which may hold no dots."""
    return name.replace(".", "/") or "/"


def _name(key: str) -> str:
    return "" if key == "/" else key.replace("/", ".")


def _checked_sets(sets: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sets)
    if len(found) != 4 or sorted(set(found)) != list(range(1 + max(found, default=0))):
        raise RetrofitError(
            f"sets {list(sets)}: one number for each of the four members, counted from 0 without gaps, "
            "as in [0, 1, 0, 1]"
        )
    return found


def _checked_counts(templates: int | Sequence[int], sets: int) -> list[int]:
    counts = [templates] * sets if isinstance(templates, int) else list(templates)
    if len(counts) != sets or min(counts) < 1:
        raise RetrofitError(
            f"templates {templates}: a positive number, or one for each of the {sets} sets"
        )
    return counts


def _half(name: str, layer: nn.Module, rows: bool, columns: bool) -> tuple[int, ...]:
    """The shape of a member's weight. Raises RetrofitError for an odd width."""
    if not (rows or columns):
        raise RetrofitError(
            f"layer {name} reads the input and gives the output: there is nothing between that grows"
        )
    outputs, inputs, *kernel = layer.weight.shape
    for size, grows, what in ((outputs, rows, "outputs"), (inputs, columns, "inputs")):
        if grows and size % 2:
            raise RetrofitError(
                f"layer {name} has {size} {what}, which two members of one width cannot share; "
                "growth doubles widths, so they must be even"
            )
    return (outputs // 2 if rows else outputs, inputs // 2 if columns else inputs, *kernel)


def _refuse_what_has_no_half(network: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False))
        kind = type(module).__name__
        if own and not isinstance(module, LAYERS + NORMS):
            raise RetrofitError(
                f"{name or 'the network'} ({kind}) has parameters of its own ({', '.join(own)}); only "
                "linear layers, convolutions and batch normalisations can be made of templates"
            )
        if getattr(module, "groups", 1) != 1 and isinstance(module, LAYERS):
            raise RetrofitError(f"layer {name} ({kind}) has groups, which templates do not cover")
        if isinstance(module, NORMS) and module.num_features % 2:
            raise RetrofitError(
                f"{name} ({kind}) has {module.num_features} channels; growth doubles widths, so they "
                "must be even"
            )
        for parameter_name, parameter in own.items():
            first = seen.setdefault(id(parameter), f"{name}.{parameter_name}")
            if first != f"{name}.{parameter_name}":
                raise RetrofitError(
                    f"{first} and {name}.{parameter_name} are one tensor; tied weights cannot be made "
                    "of templates"
                )


@torch.no_grad()
def _ends(network: nn.Module, example: Tensor) -> tuple[set[str], set[str]]:
    """Names of the layers that read ``example`` as it is (or reshaped) and that give the output."""
    readers: set[str] = set()
    outputs: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def note(_: nn.Module, args: tuple, out: Tensor) -> None:
            if args and _storage(args[0]) == _storage(example):
                readers.add(name)
            outputs[name] = out

        return note

    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, LAYERS)]
    handles = [layer.register_forward_hook(hook(name)) for name, layer in layers]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        result = network(example)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    givers = {name for name, out in outputs.items() if _storage(out) == _storage(result)}
    return readers, givers


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()

"""Any network made wider by running it: each layer takes as many features as reach it.

The widths between layers follow from the forward pass itself, so that residual sums, concatenations
and flattened images come out right without knowing the architecture. Networks whose code fixes a
width (a reshape to a number, a parameter of their own) are refused with the place.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from methods.prune.sizes import widened
from methods.prune.tracing import Example, arguments, evaluating, trace
from methods.study.errors import RetrofitError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
KNOWN = (nn.Linear, *CONVOLUTIONS, *NORMS, nn.Embedding)
ADVICE = (
    "give the wide network itself: transform(model, example, recipe, wide=MyNetwork(width=...))"
)


def widen(
    model: nn.Module, example: Example, factor: float, keep: set[str] | None = None
) -> nn.Module:
    """A copy with all widths but those of inputs and outputs times ``factor``, cut off to whole numbers.

    keep: names of the layers whose outputs stay as they are; None: the last ones (see `trace`).
    New weights are normal with the old ones' deviation times sqrt(fan-in old / new), from torch's
    default generator; parameters that were constant stay so. Raises RetrofitError.
    """
    if keep is None:
        keep = {call.name for call in trace(model, example) if call.last}
    wide = copy.deepcopy(model)
    for name, module in wide.named_modules():
        own = [n for n, _ in module.named_parameters(recurse=False)]
        if own and not isinstance(module, KNOWN):
            raise RetrofitError(
                f"{type(module).__name__} '{name}' has a parameter '{own[0]}' of its own, whose width "
                f"cannot be told; {ADVICE}"
            )
    positional, keywords = arguments(example)
    resizing = _Resizing(wide, factor, keep)
    try:
        with evaluating(wide):
            with resizing:
                wide(*positional, **keywords)
            given = wide(*positional, **keywords)
        with evaluating(model):
            wanted = model(*positional, **keywords)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RetrofitError(
            f"{type(model).__name__} cannot be widened by running it ({reason}): its code fixes a "
            f"width; {ADVICE}"
        ) from None
    if isinstance(given, Tensor) and given.shape != wanted.shape:
        raise RetrofitError(
            f"widened, {type(model).__name__} gives {tuple(given.shape)} instead of "
            f"{tuple(wanted.shape)}; {ADVICE}"
        )
    return wide


class _Resizing(TorchFunctionMode):
    """Gives the layer behind a product, norm or look-up new sizes just before it is computed."""

    def __init__(self, model: nn.Module, factor: float, keep: set[str]):
        super().__init__()
        self.factor = factor
        self.keep = keep
        self.owners = {
            id(tensor): (name, module, tensor)  # kept, so that its identity is not reused
            for name, module in model.named_modules()
            if isinstance(module, KNOWN)
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        }
        self.done: dict[str, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        keywords = dict(kwargs or {})
        known = {id(v) for v in (*args, *keywords.values()) if isinstance(v, Tensor)}
        owner = next((self.owners[i] for i in known if i in self.owners), None)
        if owner is None:
            return func(*args, **keywords)
        name, module, _ = owner
        before = {id(tensor): key for key, tensor in _state(module).items()}
        entering = args[1] if func is functional.embedding else args[0]
        with torch._C.DisableTorchFunction():
            self._resize(name, module, entering)
        now = _state(module)
        self.owners |= {id(tensor): (name, module, tensor) for tensor in now.values()}

        def renewed(value: Any) -> Any:
            return now[before[id(value)]] if id(value) in before else value

        changed = [renewed(value) for value in args]
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            changed[1] = module.normalized_shape
        if isinstance(module, CONVOLUTIONS) and module.groups > 1:
            changed[6] = module.groups
        return func(*changed, **{key: renewed(value) for key, value in keywords.items()})

    def _resize(self, name: str, module: nn.Module, x: Tensor) -> None:
        features = x.shape[-1] if isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm) else 0
        if isinstance(module, (*CONVOLUTIONS, nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)):
            features = x.shape[1]
        if name in self.done:
            if self.done[name] != features:
                raise ValueError(f"'{name}' gets {self.done[name]} features and then {features}")
            return
        self.done[name] = features
        _resize(module, features, 1.0 if name in self.keep else self.factor)


def _state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))


def _resize(module: nn.Module, features: int, factor: float) -> None:
    """New sizes for ``features`` at the entrance, in place."""
    sizes: dict[str, tuple[int, ...]] = {}
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = features, widened(module.out_features, factor)
        sizes["weight"] = (module.out_features, features)
    elif isinstance(module, CONVOLUTIONS):
        if module.groups > 1:
            each = module.in_channels // module.groups
            times = module.out_channels // module.in_channels
            if each > 1 or module.out_channels % module.in_channels:
                raise ValueError(f"a convolution of {module.groups} groups that is not depthwise")
            module.groups, module.out_channels = features, features * times
        else:
            module.out_channels = widened(module.out_channels, factor)
        module.in_channels = features
        inner = features // module.groups
        sizes["weight"] = (module.out_channels, inner, *module.weight.shape[2:])
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = widened(module.embedding_dim, factor)
        sizes["weight"] = (module.num_embeddings, module.embedding_dim)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], features)
        sizes = dict.fromkeys(("weight", "bias"), module.normalized_shape)
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = features
    else:
        module.num_features = features
    for key, tensor in _state(module).items():
        outputs = getattr(module, "out_features", getattr(module, "out_channels", features))
        shape = sizes.get(key, (outputs,) if tensor.dim() else ())
        drawn = _redrawn(tensor, shape)
        setattr(module, key, nn.Parameter(drawn) if isinstance(tensor, nn.Parameter) else drawn)


def _redrawn(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As large as ``shape``, and distributed as before."""
    if tensor.shape == shape or not tensor.is_floating_point():
        return tensor.detach().clone()
    old = tensor.detach().float()
    deviation = float(old.std(correction=0))
    if deviation == 0:
        return tensor.new_full(shape, float(old.flatten()[0]))
    if tensor.dim() > 1:
        deviation *= (old[0].numel() / max(1, torch.Size(shape[1:]).numel())) ** 0.5
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device).normal_(
        float(old.mean()) if tensor.dim() == 1 else 0.0, deviation
    )

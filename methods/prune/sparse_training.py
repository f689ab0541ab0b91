"""Masks beside the weights of a network, and the optimiser hooks that keep and move them.

A masked layer has a buffer ``weight_mask`` next to its ``weight``, and the network a buffer
``mask_step``; both are in its state dict, so a checkpoint of network and optimiser is complete. The
forward pass uses the weight as it is: what the mask rules out is exactly zero. Gradients of masked
weights are set to zero as they come, so neither clipping nor momentum ever sees them; weights that
are dropped lose their moments at once.

    net, plan = transform(model, example, Recipe("wide", 0.75))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    SparseTraining(net, optimizer, steps=1000, update="rigl")
    ...                                         # an ordinary training loop
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.fit.batches import stream
from methods.prune.masks import cubic_count, drop_and_grow, drop_fraction, random_mask, top_mask
from methods.study.errors import RetrofitError, choices

Update = Literal["static", "set", "rigl", "gradual"]
UPDATES = ("static", "set", "rigl", "gradual")
MASK, STEP = "weight_mask", "mask_step"


def masked_layers(model: nn.Module) -> dict[str, nn.Module]:
    """{name: layer} of the layers that have a mask, in the network's order."""
    return {
        name: m for name, m in model.named_modules() if MASK in dict(m.named_buffers(recurse=False))
    }


@torch.no_grad()
def attach(
    model: nn.Module,
    counts: Mapping[str, int],
    seed: int = 0,
    start: Literal["random", "full"] = "random",
) -> None:
    """Give the named layers masks, in place, that keep (or, from ``full``, are to keep) so many weights.

    random: at places drawn for (seed, layer); weights outside become zero, those inside stay as they
    were. full: nothing is masked yet. Raises RetrofitError for a count beyond the layer's weights and
    for a network that has masks.
    """
    if masked_layers(model):
        raise RetrofitError("the network has masks already; detach them first")
    for name, count in counts.items():
        layer = model.get_submodule(name)
        shape = layer.weight.shape
        mask = random_mask(shape, count, stream(seed, "mask", name))
        if start == "full":
            mask = torch.ones(shape, dtype=torch.bool)
        layer.register_buffer(MASK, mask.to(layer.weight.device))
        layer.weight_goal = count
        layer.weight.masked_fill_(~layer.weight_mask, 0)
    model.register_buffer(STEP, torch.zeros((), dtype=torch.int64))
    model.masks_start = start
    model.register_load_state_dict_post_hook(_after_loading)


def detach(model: nn.Module) -> nn.Module:
    """Take the masks off; the zeros stay. Returns the model."""
    for layer in masked_layers(model).values():
        del layer._buffers[MASK], layer.weight_goal
    if STEP in model._buffers:
        del model._buffers[STEP], model.masks_start
        hooks = model._load_state_dict_post_hooks
        for key in [key for key, hook in hooks.items() if hook is _after_loading]:
            del hooks[key]
    return model


def check(model: nn.Module) -> None:
    """Raise RetrofitError where a mask has another count than planned or a masked weight is not zero."""
    for name, layer in masked_layers(model).items():
        mask, goal = layer.weight_mask, layer.weight_goal
        kept, numbers = int(mask.sum()), mask.numel()
        if kept != goal and not (model.masks_start == "full" and goal < kept):
            raise RetrofitError(
                f"the mask of {name} keeps {kept} of {numbers} weights, and this network's keeps {goal}; "
                "the checkpoint is of another sparsity or distribution"
            )
        outside = int(torch.count_nonzero(layer.weight.detach().masked_fill(mask, 0)))
        if outside:
            raise RetrofitError(
                f"{outside} weights of {name} are masked and not zero; its mask and weight are not of "
                "one checkpoint"
            )


def _after_loading(model: nn.Module, incompatible: Any) -> None:
    # Missing keys have their own error, which torch raises after this.
    if not incompatible.missing_keys:
        check(model)


class SparseTraining:
    """Keeps the masks of a network while an optimiser trains it, and moves them every so often.

    steps: of the whole training. update: ``static``; ``set`` drops the smallest weights and grows
    random ones; ``rigl`` grows those with the largest gradient of the very batch; ``gradual`` removes
    the smallest from a full network until the goal is met. Masks move after every ``every``-th step
    from step begin x steps to before end x steps; ``drop`` is the first share dropped (`set`, `rigl`).
    ``gradual`` with begin = end removes all at once, at step ``begin`` x steps.

    Make it once, before the first step; it needs no calls. All its state is in the state dicts of
    network and optimiser. With several backward passes for one step the gradients are summed before
    they are compared. For one process, and not for optimisers that call a closure several times.

    Raises RetrofitError: no masks, masks that do not begin as ``update`` needs, an optimiser that
    does not hold a masked weight, a schedule that is none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: int,
        update: Update = "rigl",
        every: int = 100,
        drop: float = 0.3,
        begin: float = 0.0,
        end: float = 0.75,
        seed: int = 0,
    ):
        if update not in UPDATES:
            raise RetrofitError(f"there is no mask update '{update}'; {choices(update, UPDATES)}")
        if steps < 1 or every < 1 or not 0 <= begin <= end <= 1 or not 0 < drop < 1:
            raise RetrofitError(
                f"masks cannot move every {every} of {steps} steps from {begin} to {end} of them with "
                f"a share of {drop}"
            )
        self.model, self.optimizer, self.update = model, optimizer, update
        self.every, self.drop, self.seed = every, drop, seed
        self.begin, self.end = int(begin * steps), int(end * steps)
        self.layers = masked_layers(model)
        self._check(model, optimizer)
        self._due: bool | None = None
        self._outside: dict[str, Tensor] = {}
        self._dense: dict[str, Tensor] = {}
        self._handles = [
            layer.weight.register_post_accumulate_grad_hook(self._on_gradient(name, layer))
            for name, layer in self.layers.items()
        ]
        self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def _check(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if not self.layers:
            raise RetrofitError("the network has no masks: transform or attach first")
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, layer in self.layers.items():
            if id(layer.weight) not in held:
                raise RetrofitError(f"the optimiser does not hold the weight of {name}")
        if (model.masks_start == "full") != (self.update == "gradual"):
            raise RetrofitError(
                f"update '{self.update}' and masks that begin {model.masks_start}: gradual pruning "
                "begins with full masks, every other update with random ones"
            )
        check(model)

    @property
    def step(self) -> int:
        """How many steps the optimiser has made."""
        return int(self.model.mask_step)

    def moves(self, step: int) -> bool:
        """Do the masks move after this step (1, 2, …)?"""
        return moves(step, self.update, self.every, self.begin, self.end)

    def remove(self) -> None:
        """Take the hooks off network and optimiser; masks stay."""
        for handle in self._handles:
            handle.remove()

    def _on_gradient(self, name: str, layer: nn.Module):
        def hook(parameter: Tensor) -> None:
            if self._due is None:  # once for all layers: reading the counter waits for the device
                self._due = self.moves(self.step + 1)
            if self.update == "rigl" and self._due:
                outside = parameter.grad.masked_fill(layer.weight_mask, 0)
                if name in self._outside:
                    outside = outside + self._outside[name]
                self._outside[name] = outside
                parameter.grad.masked_fill_(~layer.weight_mask, 0)
                # Taken here because clipping rescales what the optimiser sees.
                self._dense[name] = parameter.grad + outside
            else:
                parameter.grad.masked_fill_(~layer.weight_mask, 0)

        return hook

    @torch.no_grad()
    def _after_step(self, *_: Any) -> None:
        self.model.mask_step += 1
        step = self.step
        if self.moves(step):
            for name, layer in self.layers.items():
                layer.weight_mask.copy_(self._next(name, layer, step))
                for value in self.optimizer.state[layer.weight].values():
                    if isinstance(value, Tensor) and value.shape == layer.weight.shape:
                        value.masked_fill_(~layer.weight_mask, 0)
        # Elementwise optimisers leave zeros alone; others (and added noise) would not.
        for layer in self.layers.values():
            layer.weight.masked_fill_(~layer.weight_mask, 0)
        self._due = None
        self._outside.clear()
        self._dense.clear()

    def _next(self, name: str, layer: nn.Module, step: int) -> Tensor:
        mask, goal = layer.weight_mask, layer.weight_goal
        if self.update == "gradual":
            count = cubic_count(step, self.begin, self.end, mask.numel(), goal)
            magnitude = torch.where(mask, layer.weight.abs(), -1.0)
            return top_mask(magnitude, min(count, int(mask.sum())))
        if self.update == "rigl":
            if name not in self._dense:  # no gradient came: nothing to compare
                return mask
            score = self._dense[name].abs()
        else:
            generator = stream(self.seed, "set", step, name)
            score = torch.rand(mask.shape, generator=generator).to(mask.device)
        return drop_and_grow(
            layer.weight, mask, score, drop_fraction(step, self.end, self.drop), goal
        )


def moves(step: int, update: Update, every: int, begin: int, end: int) -> bool:
    """Whether masks move after step 1, 2, …: every so often in begin < step < end.

    Gradual pruning also moves at ``end``, where its goal is met.
    """
    if update == "static":
        return False
    if update == "gradual" and step == max(end, 1):
        return True
    return begin < step < end and step % every == 0

"""An ensemble of networks with scales, temperatures, images and seeds of their own, trained as one stacked program.

Fidelity
--------
Paper: predictor alpha (f(w, x) - f(w0, x)), hinge loss with margin 1/alpha divided by alpha, SGD without momentum at
learning rate T B, until the loss is zero. Chosen: whether a network has fitted is looked at after every P / B updates;
networks that have fitted leave the stack, so that no work is spent on them; one that is not finite is `unstable`, one
that has not fitted by `max_updates` is `not fitted`, and both are kept in the record.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from methods.dynamics.sgd_noise.hinge import drawn, fitted, hinge, shuffled
from methods.dynamics.sgd_noise.networks import check_module
from methods.study.errors import RetrofitError

IMAGES_AT_ONCE = 1024
"""Of one network, when all are looked at; bounds memory."""


@dataclass
class Member:
    """One network: alpha, T, P, the seeds of its batches; weights and images are given beside it."""

    alpha: float
    temperature: float
    size: int
    seed: int


@dataclass
class Outcome:
    """What became of the members, tensors [E]: updates, distance |w - w0|, start |w0|, fitted, stable; and the weights
    by name [E, ...].
    """

    updates: Tensor
    distance: Tensor
    start: Tensor
    fitted: Tensor
    stable: Tensor
    weights: dict[str, Tensor]


class Ensemble:
    """Members that share an architecture.

    modules: one for each member, in the order of `members`. x: images [N, ...] that all share; y: +-1 [N]; images:
    which of them a member trains on, int64 [E, P_max], of which its first `size` count.
    Raises RetrofitError for a module with batch normalisation or dropout, for labels other than +-1 and for x that
    is not finite.
    """

    def __init__(
        self, modules: list[nn.Module], members: list[Member], x: Tensor, y: Tensor, images: Tensor
    ):
        check_module(modules[0])
        if not torch.isfinite(x).all():
            raise RetrofitError("the images hold a value that is not finite")
        if not ((y == 1) | (y == -1)).all():
            found = sorted(set(y.tolist()))[:5]
            raise RetrofitError(f"labels must be +1 and -1, found {found}")
        self.base = copy.deepcopy(modules[0]).to("meta")
        self.first, self.buffers = stack_module_state(modules)
        self.first = {name: value.detach() for name, value in self.first.items()}
        self.members, self.x, self.y, self.images = members, x, y, images
        self.alpha = torch.tensor([m.alpha for m in members])
        self.rate = torch.tensor([m.temperature for m in members])
        self.sizes = torch.tensor([m.size for m in members])
        self.seeds = torch.tensor([m.seed for m in members])
        if int(self.sizes.max()) > images.shape[1]:
            raise RetrofitError(
                f"size {int(self.sizes.max())}: a member has {images.shape[1]} images"
            )

    def outputs(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        """f(w_e, x_e): x [E, b, ...] -> [E, b]."""
        return vmap(self._one)(weights, buffers, x)

    def _one(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(self.base, (weights, buffers), (x,)).squeeze(-1)

    def all_outputs(self, weights: dict[str, Tensor], rows: Tensor, which: Tensor) -> Tensor:
        """f of members `which` on the images that rows [e, n] name, in pieces, [e, n]."""
        buffers = {name: value[which] for name, value in self.buffers.items()}
        with torch.no_grad():
            parts = [
                self.outputs(weights, buffers, self.x[part])
                for part in rows.split(IMAGES_AT_ONCE, 1)
            ]
        return torch.cat(parts, 1)

    def train(
        self,
        batch: int,
        max_updates: int,
        *,
        replacement: bool = True,
        each: Callable[[int, int], None] | None = None,
        saved: dict | None = None,
        save: Callable[[dict], None] | None = None,
    ) -> Outcome:
        """Train until all have fitted. each(update, how many are trained) and save(state) after every look.

        saved: a state that `save` was given, to go on from it to the same bits.
        """
        count = len(self.members)
        if batch > int(self.sizes.min()):
            raise RetrofitError(f"batch {batch} is larger than {int(self.sizes.min())} images")
        f0 = self.all_outputs(self.first, self.images, torch.arange(count))
        state = saved or {
            "update": 0,
            "done": torch.zeros(count, dtype=torch.bool),
            "stable": torch.ones(count, dtype=torch.bool),
            "updates": torch.full((count,), max_updates),
            "weights": {name: value.clone() for name, value in self.first.items()},
        }
        done, stable, updates = state["done"], state["stable"], state["updates"]
        final, update = state["weights"], state["update"]
        rounds = max(1, int(self.sizes.min()) // batch)
        step = vmap(grad(self._loss))
        active = (~done & stable).nonzero().squeeze(-1)
        weights = {name: value[active].clone() for name, value in final.items()}
        while update < max_updates and len(active):
            part = self._part(active, f0)
            for _ in range(min(rounds, max_updates - update)):
                rows = self._batch(active, update, batch, replacement)
                x, y, start = part["x"](rows), part["y"](rows), part["f0"].gather(1, rows)
                slopes = step(weights, part["buffers"], x, y, start, part["alpha"])
                for name, slope in slopes.items():
                    rate = part["rate"].view(-1, *[1] * (slope.dim() - 1)) * batch
                    weights[name] = weights[name] - rate * slope
                update += 1
            leave = self._look(active, weights, f0, update, done, stable, updates)
            for name, value in final.items():
                value[active] = weights[name]
            if each:
                each(update, int(len(active) - leave.sum()))
            if save:
                whole = {"done": done, "stable": stable, "updates": updates, "weights": final}
                save({**whole, "update": update})
            if leave.any():
                keep = ~leave
                active = active[keep]
                weights = {name: value[keep] for name, value in weights.items()}
        distance, start = self._moved(final)
        return Outcome(updates, distance, start, done, stable, final)

    def _loss(self, weights, buffers, x, y, start, alpha) -> Tensor:
        return hinge(self._one(weights, buffers, x) - start, y, alpha)

    def _part(self, active: Tensor, f0: Tensor) -> dict:
        images = self.images[active]

        def picked(values: Tensor):
            return lambda rows: values[images.gather(1, rows)]

        return {
            "x": picked(self.x),
            "y": picked(self.y),
            "f0": f0[active],
            "alpha": self.alpha[active],
            "rate": self.rate[active],
            "buffers": {name: value[active] for name, value in self.buffers.items()},
        }

    def _batch(self, active: Tensor, update: int, batch: int, replacement: bool) -> Tensor:
        seeds, sizes = self.seeds[active], self.sizes[active]
        if replacement:
            return drawn(seeds, update, batch, sizes)
        return shuffled(seeds, update, batch, sizes, self.images.shape[1])

    def _look(self, active, weights, f0, update, done, stable, updates) -> Tensor:
        """Which of the active members are to leave: fitted, or not finite any more."""
        images = self.images[active]
        centred = self.all_outputs(weights, images, active) - f0[active]
        beyond = torch.arange(images.shape[1]) >= self.sizes[active][:, None]
        y = self.y[images]
        # Images that a member does not have never keep it.
        centred = torch.where(beyond, y * torch.inf, centred)
        finite = torch.isfinite(torch.where(beyond, 0.0, centred)).all(-1)
        good = fitted(centred, y, self.alpha[active]) & finite
        done[active[good]] = True
        updates[active[good]] = update
        stable[active[~finite]] = False
        updates[active[~finite]] = update
        return good | ~finite

    def _moved(self, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        change = sum((weights[n] - self.first[n]).square().flatten(1).sum(1) for n in weights)
        size = sum(self.first[n].square().flatten(1).sum(1) for n in weights)
        return change.sqrt(), size.sqrt()

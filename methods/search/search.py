"""Differentiable search in a super-network, made of the one training loop.

Each update takes two batches: one on which the architecture parameters make a step, then one on which
the weights do (first-order, as in DARTS without its second-order term). Architecture weights are drawn
anew for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.fit.loop import fit
from methods.fit.schedules import cosine
from methods.run.context import Context
from methods.search.choices import Architecture
from methods.search.samplers import Sampler, sampler
from methods.search.supernet import Supernet

if TYPE_CHECKING:
    from collections.abc import Iterable

Loss = Callable[[nn.Module, int], Tensor]
"""(network, update) to a scalar."""


class ArchitectureParameters:
    """Adam on the architecture parameters, with state that survives a kill.

    The gradient is taken for them alone: weights get none, and nothing that another step left over
    enters.
    """

    def __init__(self, supernet: Supernet, learning_rate: float, weight_decay: float):
        self.supernet = supernet
        self.optimizer = torch.optim.Adam(
            supernet.alphas.parameters(),
            lr=learning_rate,
            betas=(0.5, 0.999),
            weight_decay=weight_decay,
        )

    def step(self, loss: Loss, update: int, drawn: Sampler) -> None:
        """One update on ``loss`` under weights drawn by the sampler."""
        alphas = list(self.supernet.alphas)
        with self.supernet.mixture.under(weights=self.supernet.sample(drawn)):
            value = loss(self.supernet, update)
            gradients = torch.autograd.grad(value, alphas, allow_unused=True)
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Adam's moments."""
        moments = self.optimizer.state_dict()["state"]
        return {
            f"{n}/{key}": value for n, held in moments.items() for key, value in held.items()
        }, {}

    def restore_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Continue from them."""
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, key = name.split("/")
            moments.setdefault(int(number), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


def search(
    supernet: Supernet,
    loss: Loss,
    architecture_loss: Loss | None = None,
    *,
    steps: int,
    sampler_name: str = "drnas",
    steps_per_epoch: int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    learning_rate: float = 0.025,
    last_learning_rate: float = 0.001,
    clip_norm: float | None = 5.0,
    architecture_learning_rate: float = 3e-4,
    architecture_weight_decay: float = 1e-3,
    after_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[int, Tensor], None] | None = None,
    context: Context | None = None,
) -> Architecture:
    """Train the super-network and its architecture parameters in place; the architecture found.

    loss: on items for the weights; architecture_loss: on other items (default: the same).
    optimizer: of `supernet.weights()`; default SGD with momentum .9 and decay 5e-4.
    steps_per_epoch: GDAS' temperature falls epoch by epoch; `after_epoch` is called then.
    """
    context = context or Context()
    length = steps_per_epoch or steps
    epochs = -(-steps // length)
    optimizer = optimizer or torch.optim.SGD(
        supernet.weights(), lr=learning_rate, momentum=0.9, weight_decay=5e-4
    )
    parameters = ArchitectureParameters(
        supernet, architecture_learning_rate, architecture_weight_decay
    )

    def both(network: nn.Module, step: int) -> Tensor:
        drawn = sampler(sampler_name, step // length, epochs)
        if drawn.learned:
            parameters.step(architecture_loss or loss, step, drawn)
        with torch.no_grad():
            weights = supernet.sample(drawn)
        with supernet.mixture.under(**_held(supernet, weights, drawn)):
            return loss(network, step)

    def rate(step: int) -> float:
        return learning_rate * cosine(step, steps, last_learning_rate / learning_rate)

    fit(
        supernet,
        both,
        optimizer,
        steps=steps,
        context=context,
        learning_rate=rate,
        clip_norm=clip_norm,
        steps_per_epoch=length,
        after_step=after_step,
        after_epoch=after_epoch,
        keeping={"architecture parameters": parameters},
        label="search",
    )
    return supernet.architecture()


def _held(supernet: Supernet, weights: dict[str, Tensor], drawn: Sampler) -> dict[str, Any]:
    """A one-hot draw is the sub-network itself, cut to its size; others are mixtures."""
    if not drawn.discrete:
        return {"weights": weights}
    return {"chosen": supernet.space.at(int(a.argmax()) for a in weights.values())}


def entropy(alphas: Iterable[Tensor]) -> float:
    """Mean over decisions of the entropy of softmax(alpha), as a share of its largest value."""
    shares = []
    for alpha in alphas:
        if len(alpha) > 1:
            p = alpha.detach().double().softmax(-1)
            shares.append(float(-(p * p.log()).sum()) / float(torch.tensor(len(p)).double().log()))
    return sum(shares) / len(shares) if shares else 0.0

"""The rows that trainings leave in the history, in one form for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from methods.measure.classification import accuracy
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.data.kinds import Images
    from methods.models.networks.network import Network
    from methods.run.context import Context

ROWS = 100
"""About so many rows of the history have the loss."""


def loss_rows(
    context: Context, steps: int, rate: Callable[[int], float] | None = None
) -> Callable[[int, Tensor], None]:
    """For `fit(after_step=…)`: rows (step, loss) at even distances, with the rate where it is given."""
    every = max(1, steps // ROWS)

    def after_step(step: int, loss: Tensor) -> None:
        if step % every == 0 or step == steps:
            rated = {} if rate is None else {"rate": rate(step - 1)}
            context.record(step=step, loss=float(loss), **rated)

    return after_step


def accuracy_rows(
    context: Context, network: Network, validation: Images | None, steps: int, per_epoch: int
) -> Callable[[int], None]:
    """For `fit(after_epoch=…)`: rows (step, epoch, validation_accuracy), where there are images."""

    def after_epoch(epoch: int) -> None:
        if validation is not None and len(validation.y):
            context.record(
                step=min((epoch + 1) * per_epoch, steps),
                epoch=epoch + 1,
                validation_accuracy=accuracy(network, validation),
            )

    return after_epoch


def accuracy_metric(
    network: Network, validation: Images | None, name: str = "validation_accuracy"
) -> dict[str, Metric]:
    """`{name: accuracy}` on the images; empty without any."""
    if validation is None or not len(validation.y):
        return {}
    found = accuracy(network, validation)
    return {name: Metric(found, n=len(validation.y), higher_is_better=True)}

"""Train a network in a small- or large-batch regime, and watch how far its weights travel.

Hoffer, Hubara, Soudry, "Train longer, generalize better: closing the generalization gap in large
batch training of neural networks", NeurIPS 2017 (arXiv 1705.08741).

Fidelity
--------
Follows the paper: SGD with momentum, stepped learning rates, square-root scaling, ghost batch
normalisation, regime adaptation, clipping at norm 5, multiplicative noise. ``repo_momentum_reset``
and ``remainder: chunk`` give the published code's behaviour (eladhoffer/bigBatch, 0c69f28).

Defects of the published code, and what is done about them:

1. It builds a new optimiser at the start of every epoch, since the sticky regime of epoch 0 names
   one: the momentum is lost each epoch, and with a large batch an epoch is a dozen updates.
   Default: kept. ``repo_momentum_reset`` shows what it does to the numbers.
2. Reference batches of the learning-rate rule differ between its two scripts (256, ghost size).
   Here ``lr_ref_batch``.
3. Scaling the rate changes the model's regime in place. Here pure functions.
4. The best epoch is chosen on the test set. Here the last epoch counts; the validation share is
   held out of the training set and chooses nothing.
5. The distance is logged for the first parameter tensor only. Here for all.
6. MNIST is augmented with mirror images; CIFAR is padded with grey and normalised by ImageNet's
   moments. Here augmentation is off unless asked for, and moments are the training part's own.
7. The average over ghosts is a mean of means, which weighs samples of short ghosts more. Here
   the loss is the mean over samples; with equal ghosts both agree.
8. It needs Python 2 syntax (``async=``) and removed torch calls; parsing the network's options
   reads attributes of a dictionary, so some defaults always apply.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods.data.kinds import Images
from methods.fit.batches import (
    Batches,
    as_batch_first,
    shift_and_flip,
    standardise,
    stream,
    subset,
)
from methods.fit.history import accuracy_metric
from methods.fit.images import training_and_validation
from methods.fit.loop import fit
from methods.large_batch import diffusion, noise, regimes
from methods.large_batch.ghost_batch_norm import replace_batch_norm
from methods.measure.classification import accuracy, score
from methods.models.networks.network import Network, build, fresh
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.large_batch.params import LargeBatch
    from methods.run.context import Context


def apply(base: None, data: dict[str, list[Any]], params: LargeBatch, context: Context) -> Network:
    """A network trained on the first set of the role ``train``.

    Its metrics are those of the role ``test`` where the study gives one, the accuracy on the
    held-out share, the number of updates, and the laws fitted to the distance. The history has a
    row (step, rate, loss, distance) at log-spaced updates and (step, epoch, validation_accuracy)
    about ``curve_points`` times.
    """
    network, training, validation = _prepare(data["train"][0], params, context)
    regime = regime_of(params, len(training.y))
    batch = _batch(params)
    batches = Batches(len(training.y), batch, context.seed_for("batch order"))
    steps = regime.epochs * batches.per_epoch
    module = network.module
    ghosts = params.small_batch if params.ghost_size == "small" else params.ghost_size
    if ghosts is not None:
        replace_batch_norm(
            module,
            ghosts,
            running=params.running,
            remainder=params.remainder,
            chunks=max(1, batch // ghosts),
        )
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=params.learning_rate,
        momentum=params.momentum,
        weight_decay=params.weight_decay,
        fused=True,
    )
    walk = _Walk(
        diffusion.Distance(module.parameters()),
        context,
        steps,
        regime.first_phase * batches.per_epoch,
    )

    def rate(step: int) -> float:
        return regime.rate(step // batches.per_epoch)

    every = max(1, round(regime.epochs / params.curve_points))

    def after_epoch(epoch: int) -> None:
        last = epoch == regime.epochs - 1
        if len(validation.y) and (last or (epoch + 1) % every == 0):
            context.record(
                step=(epoch + 1) * batches.per_epoch,
                epoch=epoch + 1,
                validation_accuracy=accuracy(network, validation),
            )

    fit(
        module,
        _loss(training, network, batches, params, context),
        optimizer,
        steps=steps,
        context=context,
        learning_rate=rate,
        clip_norm=params.clip_norm,
        precision=params.precision,
        steps_per_epoch=batches.per_epoch,
        before_epoch=(lambda epoch: optimizer.state.clear())
        if params.repo_momentum_reset
        else None,
        after_step=lambda step, loss: walk.after_step(step, loss, rate(step - 1)),
        after_epoch=after_epoch,
        keeping={"walk": walk},
    )
    network.metrics = {"updates": Metric(steps, unit="updates")}
    network.metrics |= accuracy_metric(network, validation)
    if data.get("test"):
        test = data["test"][0]
        used = subset(len(test.y), getattr(test, "options", {}).get("limit"))
        network.metrics |= score(network.logits(test.x[used]), torch.from_numpy(test.y)[used])
    network.metrics |= _distance_metrics(walk, params, network, context)
    network.module = _with_plain_normalisation(network)
    return network


def regime_of(params: LargeBatch, samples: int) -> regimes.Regime:
    """Learning rates and epochs that the parameters ask for on so many training samples."""
    regime = regimes.stepped(params.learning_rate, params.milestones, params.factor, params.epochs)
    batch, reference = _batch(params), params.small_batch
    regime = regimes.scale_rates(regime, batch, params.lr_ref_batch or reference, params.lr_rule)
    if params.regime_adaptation == "stretch":
        return regimes.adapt(regime, batch, reference)
    if params.regime_adaptation == "matched":
        return regimes.matched_updates(samples, regime, batch, reference)
    return regime


def _batch(params: LargeBatch) -> int:
    return params.small_batch if params.batch == "small" else params.large_batch


def _prepare(
    images: Images, params: LargeBatch, context: Context
) -> tuple[Network, Images, Images]:
    """A fresh network, the images to train on, and those held out."""
    training, validation = training_and_validation(
        {"train": [images]}, params.validation, "large_batch", context
    )
    network = fresh(training, params.network.model_dump(), context.seed_for("initial weights"))
    network.module.to(context.device, memory_format=torch.channels_last)
    return network, training, validation


def _loss(
    training: Images, network: Network, batches: Batches, params: LargeBatch, context: Context
):
    x = as_batch_first(training.x, context.device)
    y = torch.from_numpy(training.y).to(context.device)
    variance = params.noise
    if variance == "matching":
        variance = noise.matching_variance(batches.size, params.small_batch)
    noise_seed = context.seed_for("gradient noise")
    crop_seed = context.seed_for("augmentation")

    def loss(module: nn.Module, step: int) -> Tensor:
        chosen = batches.indices(step).to(x.device)
        inputs = x[chosen]
        if params.augment:
            inputs = shift_and_flip(inputs, stream(crop_seed, step))
        logits = module(standardise(inputs, network.mean, network.std))
        losses = functional.cross_entropy(logits, y[chosen], reduction="none")
        weights = None
        if variance != "none":
            weights = noise.sample_weights(len(chosen), variance, stream(noise_seed, step))
        return noise.weighted_mean(losses, weights)

    return loss


@dataclass
class _Walk:
    """Distances from the start at log-spaced updates, also as rows of the history."""

    distance: diffusion.Distance
    context: Context
    steps: int
    first_phase: int
    points: list[tuple[int, float]] = field(default_factory=list)

    def __post_init__(self):
        self._due = {*diffusion.log_spaced(self.steps), self.steps}

    def after_step(self, step: int, loss: Tensor, rate: float) -> None:
        if step not in self._due:
            return
        distance = self.distance.now()
        row = {"step": step, "rate": rate, "loss": float(loss), "distance": distance}
        if step <= self.first_phase:
            self.points.append((step, distance))
            row["first_phase_distance"] = distance
        self.context.record(**row)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.distance.state()[0], {"points": self.points}

    def restore_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.distance.restore_state(tensors, {})
        self.points = [(step, distance) for step, distance in state["points"]]


def _distance_metrics(
    walk: _Walk, params: LargeBatch, network: Network, context: Context
) -> dict[str, Metric]:
    found = {"distance": Metric(walk.distance.now())}
    try:
        laws = diffusion.compare(*zip(*walk.points, strict=True), t_min=params.fit_from)
    except ValueError as error:
        context.log.warning("%s: no law fitted to the distance: %s", context.label, error)
        return found
    network.notes["distance_laws"] = {
        name: {**law.coefficients, "r2": law.r2, "aic": law.aic} for name, law in laws.items()
    }
    n = sum(step >= params.fit_from for step, _ in walk.points)
    found["log_slope"] = Metric(laws["log"].coefficients["b"], n=n)
    found["power_exponent"] = Metric(laws["power"].coefficients["p"], n=n)
    found["log_margin"] = Metric(diffusion.margin(laws), n=n, unit="AIC", higher_is_better=True)
    for name, law in laws.items():
        if math.isfinite(law.r2):
            found[f"r2/{name}"] = Metric(law.r2, n=n, higher_is_better=True)
    return found


def _with_plain_normalisation(network: Network) -> nn.Module:
    """The trained network with ordinary batch normalisation, which is the same in evaluation."""
    plain = build(network.architecture, network.arguments, seed=0)
    plain.load_state_dict(network.module.state_dict())
    return plain.eval()

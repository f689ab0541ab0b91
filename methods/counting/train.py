"""Train a network to predict density maps, and choose its epoch on images held out of training.

Du, Shi, Deng, Zafeiriou, "Redesigning Multi-Scale Neural Network for Crowd Counting", IEEE TIP 2023 (arXiv
2208.02894).

Fidelity
--------
The paper's text could be had only in part; network, losses and recipe follow its published code (ZPDu 693c104): Adam at
2e-5, halved once at epoch 100 of 200, whole images one at a time, mirrored with probability one half.

Defects of the published code, and what is done about them:

1. Predictions [b, 1, h, w] are compared with maps [b, h, w], which broadcasts to [b, b, h, w]: right for a batch of one
   only. Here shapes must be equal.
2. The line of the relative loss is commented out, and indexes maps and weights by the batch's number: its weight
   doubles with every third batch until the loss overflows. Here by the map's level; the loss is on.
3. The best epoch is chosen on the test set. Here on a share of the training images; the test is counted once.
4. Points are read as if the first pixel were 1, and kernels at the border are re-centred, so peaks move by up to 4
   pixels. Here ``border: renormalise``; ``recentre`` gives the published maps.
5. `validate` indexes the network's list of maps as if it were a batch. Here a count is the sum of the last map.
6. Experts that end in ReLU and start at deviation 0.01 can die on small data and predict nothing. Kept as the default;
   ``positive: softplus`` and ``initial: he`` avoid it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.counting import pictures
from methods.counting.crops import random_crop
from methods.counting.losses import total
from methods.counting.maps import Maps, as_scenes, chosen
from methods.counting.network import Counter, build, check_image, inputs
from methods.counting.start import IMAGENET, initialise, take_backbone, take_published
from methods.fit.batches import Batches, held_out, moments, stream
from methods.fit.early_stop import EarlyStop
from methods.fit.history import loss_rows
from methods.fit.loop import fit
from methods.fit.schedules import multi_step
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from methods.counting.params import DensityCounting
    from methods.data.kinds import Scenes
    from methods.models.networks.network import Network
    from methods.run.context import Context


def apply(
    base: Maps, data: dict[str, list[Any]], params: DensityCounting, context: Context
) -> Counter:
    """A counter trained on the first set of `train` with the maps of the step before.

    The history has rows (step, loss, rate) and (step, epoch, validation_mae). Where the study has a `test`, pictures of
    some of its images are kept; the measure `counting` counts all of them.
    """
    train = as_scenes(data["train"][0], "density_counting: train")
    maps = base.of("train", train)
    if data.get("validation"):
        validation = as_scenes(data["validation"][0], "density_counting: validation")
        kept = list(range(len(maps)))
    else:
        kept, out = split(len(maps), params.validation, context)
        validation = chosen(train, out)
    counter = train_counter(
        chosen(train, kept), [maps[i] for i in kept], validation, params, context, base.network
    )
    if data.get("test") and params.pictures:
        test = as_scenes(data["test"][0], "density_counting: test")
        counter.pictures = _pictures(counter, test, base.kernel, params.pictures)
    return counter


def learn(scenes: Scenes, context: Context | None = None, **changes: Any) -> Counter:
    """A counter for scenes of one's own, with the settings of `params.small` and those given; for notebooks.

    Densities have the default kernel. Raises RetrofitError and pydantic's ValidationError as `apply` and the parameters
    do.
    """
    from methods.counting import maps
    from methods.counting.params import DensityMaps, small
    from methods.run.context import Context

    context = context or Context()
    data = {"train": [scenes]}
    return apply(maps.apply(None, data, DensityMaps(), context), data, small(**changes), context)


def split(count: int, share: float, context: Context) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to judge by, by the run's seed; at least one of each where `share` is above 0."""
    if share == 0:
        return list(range(count)), []
    if count < 2:
        raise RetrofitError(
            "one training image leaves none to hold out; give more, a set of the role validation, or validation: 0"
        )
    out = min(count - 1, max(1, round(share * count)))
    return tuple(rows.tolist() for rows in held_out(count, out, context.seed_for("validation")))


def train_counter(
    train: Scenes,
    maps: list[np.ndarray],
    validation: Scenes,
    params: DensityCounting,
    context: Context,
    base: Network | None = None,
) -> Counter:
    """Train on scenes with their density maps [h, w]; the epoch with the least MAE on `validation` is kept.

    Without validation scenes the last epoch is. A run that was killed continues from its checkpoint to the same bits.
    Raises RetrofitError: images smaller than the network's stride or than the relative loss's patches, a loss that is
    not finite.
    """
    _check(train, params)
    _check(validation, None)
    counter = fresh(train, params, context, base)
    module = counter.module.to(context.device, memory_format=torch.channels_last)
    samples = len(maps) * params.crops
    batches = Batches(
        samples, min(params.batch, samples), context.seed_for("batch order"), drop_last=True
    )
    steps = params.epochs * batches.per_epoch
    stones = [stone * batches.per_epoch for stone in params.milestones]
    best = EarlyStop(patience=params.epochs)

    def rate(step: int) -> float:
        return params.learning_rate * multi_step(step, stones, params.factor)

    trained = [p for p in module.parameters() if p.requires_grad]
    fit(
        module,
        _loss(train, maps, counter, batches, params, context),
        torch.optim.Adam(
            trained, lr=params.learning_rate, weight_decay=params.weight_decay, fused=True
        ),
        steps=steps,
        context=context,
        learning_rate=rate,
        clip_norm=params.clip_norm,
        precision=params.precision,
        steps_per_epoch=batches.per_epoch,
        after_step=loss_rows(context, steps, rate),
        after_epoch=_judge(counter, validation, batches.per_epoch, params, context),
        early_stop=best if validation.images else None,
        keeping={"best": best},
    )
    module.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    counter.metrics = {"updates": Metric(steps, unit="updates")}
    if best.best_epoch >= 0:
        counter.metrics["chosen_epoch"] = Metric(best.best_epoch + 1)
        counter.metrics["validation_mae"] = Metric(
            -best.best, n=len(validation.images), higher_is_better=False
        )
    return counter


def fresh(
    train: Scenes, params: DensityCounting, context: Context, base: Network | None
) -> Counter:
    """An untrained counter, its pixels standardised as its backbone wants it, or by the training images' moments."""
    sizes = params.network.model_dump()
    architecture = sizes.pop("architecture")
    module = build(architecture, sizes, context.seed_for("layers"))
    initialise(module, params.initial, context.seed_for("initial weights"))
    take_backbone(module, base)
    if params.weights is not None:
        take_published(module, params.weights)
        mean, std = IMAGENET
    elif sizes.get("backbone") == "efficientnet_lite":
        mean, std = base.mean, base.std
    else:
        mean, std = moments(np.concatenate([x.reshape(-1, 3) for x in train.images])[None, None])
    return Counter(module, architecture, sizes, mean, std, params.scale)


def validation_mae(counter: Counter, scenes: Scenes) -> float:
    """Mean absolute error of the counts; all points count."""
    errors = [
        abs(counter.count(image) - len(points))
        for image, points in zip(scenes.images, scenes.points, strict=True)
    ]
    return float(np.mean(errors))


def _check(scenes: Scenes, params: DensityCounting | None) -> None:
    for image, title in zip(scenes.images, scenes.titles, strict=True):
        check_image(image, f"{scenes.name}, {title}")
        if params is None or params.crop is not None or not params.loss.relative:
            continue
        patch, hardest = params.loss.patch, params.loss.hardest
        patches = (image.shape[0] // patch) * (image.shape[1] // patch)
        if patches < hardest:
            raise RetrofitError(
                f"{scenes.name}, {title}: {patches} patches of {patch} pixels, and the relative loss compares "
                f"{hardest}; a smaller patch, or loss.relative: 0"
            )


def _judge(
    counter: Counter,
    validation: Scenes,
    per_epoch: int,
    params: DensityCounting,
    context: Context,
) -> Callable[[int], float | None]:
    def after_epoch(epoch: int) -> float | None:
        since, last = epoch - params.check_from, epoch == params.epochs - 1
        if not validation.images or since < 0 or (since % params.check_every and not last):
            return None
        error = validation_mae(counter, validation)
        context.record(step=(epoch + 1) * per_epoch, epoch=epoch + 1, validation_mae=error)
        return -error

    return after_epoch


def _loss(
    train: Scenes,
    maps: list[np.ndarray],
    counter: Counter,
    batches: Batches,
    params: DensityCounting,
    context: Context,
) -> Callable[[nn.Module, int], Tensor]:
    seed = context.seed_for("augmentation")
    fill = np.round(255 * np.array(counter.mean)).astype(np.uint8)
    terms = params.loss

    def loss(module: nn.Module, step: int) -> Tensor:
        generator = stream(seed, step)
        crops = [
            random_crop(train.images[i], maps[i], params.crop, params.flip, fill, generator)
            for i in (batches.indices(step) // params.crops).tolist()
        ]
        x = inputs(
            np.stack([image for image, _ in crops]), counter.mean, counter.std, context.device
        )
        true = torch.from_numpy(np.stack([density for _, density in crops]))[:, None] * params.scale
        return total(
            module(x),
            true.to(x),
            relative=terms.relative,
            importance_weight=terms.importance,
            attention_weight=terms.attention,
            patch=terms.patch,
            hardest=terms.hardest,
            threshold=terms.threshold * params.scale,
        )["loss"]

    return loss


def _pictures(
    counter: Counter, test: Scenes, kernel: dict[str, Any], number: int
) -> dict[str, bytes]:
    from methods.counting.maps import one
    from methods.counting.params import DensityMaps

    made = DensityMaps(**kernel)
    found = {}
    for place, row in enumerate(pictures.spread([len(p) for p in test.points], number), start=1):
        image, points = test.images[row], test.points[row]
        predicted = counter.density(image)
        true = one(points, image.shape[:2], made)
        picture = pictures.side_by_side(image, points, true, predicted)
        title = f"{len(points)} marked, {predicted.sum():.1f} predicted"
        found[f"{place:02d}"] = pictures.png(picture, title)
    return found

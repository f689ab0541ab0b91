"""How wrongly a network counts on scenes it was not trained on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from methods.counting import metrics
from methods.counting.density import kept
from methods.counting.maps import as_scenes, count_outside
from methods.counting.network import inputs
from methods.measure.cost import count
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.counting.network import Counter
    from methods.counting.params import Counting
    from methods.data.kinds import Scenes
    from methods.run.context import Context


def measure(
    model: Counter, data: dict[str, list[Any]], params: Counting, context: Context
) -> dict[str, Metric]:
    """`mae`, `rmse`, `nae`, `game/1` to `game/<levels>` on each set, and the network's size and cost.

    The first set's metrics have plain names; those of further sets carry the set's name. `macs`: for one image of the
    first set.
    """
    if not hasattr(model, "density"):
        raise RetrofitError(f"counting measures a counting network, not {type(model).__name__}")
    model.module.to(context.device)
    found: dict[str, Metric] = {}
    for number, content in enumerate(data["test"]):
        scenes = as_scenes(content, "counting: test")
        count_outside(scenes, context, params.outside)
        facet = f"/{scenes.name}" if number else ""
        scores = score(model, scenes, params, context)
        found.update({name + facet: metric for name, metric in scores.items()})
        if not number:
            example = inputs(scenes.images[0][None], model.mean, model.std, context.device)
            cost = count(model.module, example)
            found["parameters"] = Metric(cost.parameters, higher_is_better=False)
            found["macs"] = Metric(cost.macs, unit="MAC", higher_is_better=False)
    return found


def score(model: Counter, scenes: Scenes, params: Counting, context: Context) -> dict[str, Metric]:
    """The metrics on one set; the values of single images go with each mean.

    NAE is over the images with something in them, and left out where there are none. Raises RetrofitError with the
    image's name.
    """
    predicted, true, games = [], [], []
    rows = zip(scenes.images, scenes.points, scenes.titles, strict=True)
    for image, points, title in context.progress(rows, total=len(scenes.images), label="counting"):
        try:
            points = kept(points, image.shape[:2], params.outside)
            density = model.density(image)
        except (ValueError, RetrofitError) as error:
            raise RetrofitError(f"{scenes.name}, {title}: {error}") from None
        if params.region:
            density = density * image.any(2)
        predicted.append(float(density.sum()))
        true.append(len(points))
        games.append(
            [
                metrics.game(
                    metrics.cell_sums(density, level),
                    metrics.cell_counts(points, image.shape[:2], level),
                )
                for level in range(1, params.levels + 1)
            ]
        )
    return _named(np.array(predicted), np.array(true, float), np.array(games), scenes.titles)


def _named(
    predicted: np.ndarray, true: np.ndarray, games: np.ndarray, titles: list[str]
) -> dict[str, Metric]:
    errors = np.abs(predicted - true)
    found = {
        "mae": _mean(errors, titles),
        "rmse": Metric(metrics.rmse(predicted, true), n=len(true), higher_is_better=False),
        "bias": Metric(float((predicted - true).mean()), n=len(true)),
    }
    relative = metrics.nae(predicted, true)
    if math.isfinite(relative):
        found["nae"] = Metric(relative, n=int((true > 0).sum()), higher_is_better=False)
    for level, column in enumerate(games.T, start=1):
        found[f"game/{level}"] = _mean(column, titles)
    return found


def _mean(values: np.ndarray, titles: list[str]) -> Metric:
    stderr = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    distinct = titles if len(set(titles)) == len(titles) else None
    return Metric(
        float(values.mean()),
        stderr,
        len(values),
        higher_is_better=False,
        values=values.tolist(),
        labels=distinct,
    )

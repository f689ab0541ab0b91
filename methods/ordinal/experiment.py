"""One run: a method fitted to every replicate of a setting, its probabilities of the rare class scored.

Synthetic designs are scored against the true probabilities on the training rows (the paper's figure of merit)
and against new outcomes at the same x; tables on the held-out rows.  Runs resume from a checkpoint
between replicates; every replicate's random numbers have their own stream, so the result is the same to the bit.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from methods.models.estimates import Estimates
from methods.ordinal.metrics import brier, log_loss, osce, osce_released, rare_mse
from methods.ordinal.replicates import Replicate, checked, limited, split, synthetic
from methods.ordinal.solver import NotConverged
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.ordinal.params import OrdinalParams
    from methods.run.context import Context

CHECKPOINT_SECONDS = 60.0
SCORES = {
    "rare_mse": "mean squared error of the rare class's probability against the truth",
    "brier_rare": "Brier score of the rare class",
    "log_loss": "log loss of the rare class, nats",
    "osce": "calibration error of the rare class",
    "osce_released": "the same as the published code computes it",
    "seconds": "fit, cross-validation included",
}


@dataclass(frozen=True)
class Fitted:
    """`rare`: x [n, p] -> probability of the rare class [n]; notes: numbers for the replicate's record."""

    rare: Callable[[np.ndarray], np.ndarray]
    intercept: np.ndarray
    coef: np.ndarray
    notes: dict[str, float | int] = field(default_factory=dict)


Fit = Callable[[Replicate, np.random.Generator], Fitted]


def run(fit: Fit, data: dict, params: OrdinalParams, context: Context) -> Estimates:
    """Fit and score every replicate; the metrics' values are per replicate, labelled by its number.

    Raises RetrofitError where the setting gives neither a design nor a table, or both, or a bad table.
    """
    make = _source(data, params, context)
    saved = context.checkpoint.load()
    rows: list[dict] = saved["state"]["rows"] if saved else []
    todo = range(len(rows), params.replicates if params.design else params.splits)
    for number in context.progress(todo, len(todo), "replicates"):
        rows.append(_one(fit, make(number), context.numpy(f"presto fit {number}")))
        if context.checkpoint.every(CHECKPOINT_SECONDS):
            context.checkpoint.save({}, {"rows": rows})
    records = [row["record"] for row in rows]
    unfinished = sum(record["unconverged"] for record in records)
    if unfinished:
        context.log.warning(
            "%d fits in %d replicates did not converge; their classes may be separated",
            unfinished,
            len(records),
        )
    arrays = {name: np.array([row[name] for row in rows]) for name in ("intercept", "coef")}
    return Estimates(records, arrays, _metrics(records))


def _source(data: dict, params: OrdinalParams, context: Context) -> Callable[[int], Replicate]:
    tables = data.get("train", [])
    if params.design is not None and not tables:
        design = params.design
        return lambda number: synthetic(design, params.rows, number, context)
    if params.design is None and len(tables) == 1:
        table = checked(limited(tables[0]))
        return lambda number: split(table, params.test_share, number, context)
    given = f"design {params.design} and {len(tables)} data sets in the role 'train'"
    raise RetrofitError(
        f"{params.method}: a setting gives either `design` or one table as data role 'train'; "
        f"this one has {given}"
    )


def _one(fit: Fit, replicate: Replicate, rng: np.random.Generator) -> dict:
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NotConverged)
        fitted = fit(replicate, rng)
    seconds = time.perf_counter() - start
    rare = replicate.classes - 1
    predicted, event = fitted.rare(replicate.x_test), replicate.y_test == rare
    record: dict[str, float | int | str] = {"replicate": replicate.label}
    if replicate.truth is not None:
        record["rare_mse"] = rare_mse(fitted.rare(replicate.x), replicate.truth)
    record |= {
        "brier_rare": brier(predicted, event),
        "log_loss": log_loss(predicted, event),
        "osce": osce(predicted, event),
        "osce_released": osce_released(predicted, event),
        "seconds": seconds,
        "rare_share": float(np.mean(replicate.y == rare)),
        "mean_predicted": float(predicted.mean()),
        "unconverged": sum(issubclass(w.category, NotConverged) for w in caught),
        **fitted.notes,
    }
    return {
        "record": record,
        "intercept": fitted.intercept.tolist(),
        "coef": fitted.coef.tolist(),
    }


def _metrics(records: list[dict]) -> dict[str, Metric]:
    labels = [str(record["replicate"]) for record in records]
    found = {}
    for name in SCORES:
        if name in records[0]:
            values = [float(record[name]) for record in records]
            found[name] = Metric(
                float(np.mean(values)),
                stderr=standard_error(values),
                n=len(values),
                unit="s" if name == "seconds" else "",
                higher_is_better=False,
                values=values,
                labels=labels,
            )
    return found


def standard_error(values: list[float]) -> float | None:
    """Of the mean; None for a single value."""
    if len(values) < 2:
        return None
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))

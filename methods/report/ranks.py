"""Ranks of variants: on each unit (task, window, replicate) the best variant of a metric has rank 1.

The mean rank is how methods are compared over many data sets whose figures are not of one scale (Demšar, JMLR 2006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from methods.measure.statistics import mean_interval
from methods.report.cells import CellResult, Measurement
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError
from methods.study.names import matches

PREFIX = "rank/"


def ranked(cells: Sequence[CellResult], wanted: Mapping[str, list[str]]) -> tuple[CellResult, ...]:
    """The cells with a measurement `rank/<metric>` for each metric of `wanted` = {metric: patterns of variants}.

    Values are averaged over seeds before they are ranked; units that one of the variants lacks are left out.
    Raises RetrofitError for a metric without single values, or one that does not say which direction is good.
    """
    made = list(cells)
    for metric, patterns in wanted.items():
        for setting in dict.fromkeys(cell.setting for cell in cells):
            chosen = [
                index
                for index, cell in enumerate(made)
                if cell.setting == setting
                and matches(cell.variant, patterns)
                and cell.measurement(metric)
            ]
            measured = [made[index].measurements[metric] for index in chosen]
            for index, measurement in zip(chosen, _ranks(metric, measured), strict=True):
                found = {**made[index].measurements, measurement.name: measurement}
                made[index] = replace(made[index], measurements=found)
    return tuple(made)


def _ranks(metric: str, measured: list[Measurement]) -> list[Measurement]:
    if len(measured) < 2:
        return [_measurement(m, [1.0] * len(m.units()), list(m.units())) for m in measured]
    units = [measurement.units() for measurement in measured]
    labels = [label for label in units[0] if all(label in other for other in units)]
    better = measured[0].higher_is_better
    if not labels:
        raise RetrofitError(f"'{metric}' cannot be ranked: it was measured without single values")
    if better is None:
        raise RetrofitError(f"'{metric}' does not say whether higher is better, so it has no ranks")
    values = np.array([[found[label] for label in labels] for found in units])
    ranks = places(values if better else -values)
    return [
        _measurement(one, row.tolist(), labels) for one, row in zip(measured, ranks, strict=True)
    ]


def places(values: np.ndarray) -> np.ndarray:
    """Ranks in each column of [variants, units], 1 for the highest; equal values share the mean of their ranks."""
    above = (values[None] > values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return above + (equal + 1) / 2


def _measurement(of: Measurement, ranks: list[float], labels: list[str]) -> Measurement:
    interval = mean_interval(ranks)
    metric = Metric(
        interval.value,
        stderr=interval.stderr,
        n=len(ranks),
        higher_is_better=False,
        values=ranks,
        labels=labels,
    )
    return Measurement(
        f"{PREFIX}{of.name}", of.seeds[:1], (metric,), of.runs[:1], False, of.comparable
    )

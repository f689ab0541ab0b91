"""Ranks over units: by hand, with ties, and against scipy where it is there."""

import numpy as np
import pytest

from methods.report.cells import CellResult, Measurement
from methods.report.ranks import places, ranked
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError


def cell(variant, *seeds, better=True, labels=("a", "b", "c"), setting="default"):
    metrics = tuple(
        Metric(
            float(np.mean(v)),
            values=list(v),
            labels=list(labels)[: len(v)],
            higher_is_better=better,
        )
        for v in seeds
    )
    runs = tuple(f"method/{variant}-{n}" for n in range(len(seeds)))
    measurement = Measurement("score", tuple(range(len(seeds))), metrics, runs, False)
    return CellResult(setting, variant, (), {"score": measurement}, False)


def test_places_by_hand():
    values = np.array([[0.9, 0.5, 0.1], [0.8, 0.5, 0.3], [0.7, 0.6, 0.3]])
    assert places(values).tolist() == [[1, 2.5, 3], [2, 2.5, 1.5], [3, 1, 1.5]]


def test_places_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(3).integers(0, 4, (6, 40)).astype(float)
    np.testing.assert_allclose(places(values), stats.rankdata(-values, axis=0))


def test_variants_are_ranked_within_a_setting_on_the_mean_over_seeds():
    cells = [
        cell("x", (1.0, 2.0, 3.0), (3.0, 2.0, 1.0)),
        cell("y", (1.9, 2.1, 1.9)),
        cell("z", (9.0, 9.0, 9.0)),
        cell("x", (0.0, 0.0, 0.0), setting="other"),
    ]
    made = ranked(cells, {"score": ["x", "y"]})
    assert made[0].measurements["rank/score"].metrics[0].values == [1.0, 2.0, 1.0]
    second = made[1].measurements["rank/score"]
    assert second.metrics[0].values == [2.0, 1.0, 2.0]
    assert second.value == pytest.approx(5 / 3)
    assert second.higher_is_better is False
    assert "rank/score" not in made[2].measurements
    assert made[3].measurements["rank/score"].value == 1.0
    assert made[0].measurements["score"] is cells[0].measurements["score"]


def test_where_low_is_good_the_lowest_is_first():
    made = ranked(
        [cell("x", (1.0, 5.0), better=False), cell("y", (2.0, 4.0), better=False)], {"score": ["*"]}
    )
    assert made[0].measurements["rank/score"].metrics[0].values == [1.0, 2.0]


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(RetrofitError, match="does not say whether higher is better"):
        ranked([cell("x", (1.0,), better=None), cell("y", (2.0,), better=None)], {"score": ["*"]})
    with pytest.raises(RetrofitError, match="without single values"):
        ranked([cell("x", ()), cell("y", (2.0,))], {"score": ["*"]})

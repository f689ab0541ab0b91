"""The synthetic designs: shares of the rare class, ranges of the slopes, identical replicates."""

import numpy as np
import pytest
from scipy.special import expit

from methods.ordinal.designs import DESIGNS, Design, draw, outcomes, slopes
from methods.ordinal.params import OrdinalParams, Presto
from methods.study.errors import RetrofitError


def test_params_and_designs_name_the_same_settings():
    allowed = Presto.model_json_schema()["properties"]["design"]["anyOf"][0]["enum"]
    assert allowed == list(DESIGNS)
    assert len(DESIGNS) == 10
    assert issubclass(Presto, OrdinalParams)
    assert issubclass(RetrofitError, Exception)


@pytest.mark.parametrize(
    ("name", "share"), [("sparse-third-5", 0.0105), ("dense-4.5", 0.0184), ("sparse-half-6", 0.005)]
)
def test_share_of_the_rare_class(name, share):
    found = [
        draw(DESIGNS[name], 2500, np.random.default_rng(seed)).probabilities[:, -1].mean()
        for seed in range(60)
    ]
    # The reference figures are from 12 to 40 replicates.
    assert np.mean(found) == pytest.approx(share, rel=0.35)


def test_sparse_slopes():
    found = np.array(
        [slopes(DESIGNS["sparse-third-5"], np.random.default_rng(seed)) for seed in range(400)]
    )
    psi = np.diff(found, axis=1, prepend=0.0)
    assert set(np.unique(psi[:, 0])) == {0.0, 0.5}
    assert set(np.unique(psi[:, 1:])) == {-0.5, 0.0, 0.5}
    assert (psi != 0).mean() == pytest.approx(1 / 3, abs=0.02)


def test_dense_slopes():
    psi = np.diff(slopes(DESIGNS["dense-5"], np.random.default_rng(0)), axis=0, prepend=0.0)
    assert psi.shape == (3, 10)
    assert np.abs(psi).max() <= 0.5
    assert (psi < 0).any()


def test_a_draw_is_what_its_probabilities_say():
    made = draw(DESIGNS["dense-4.5"], 20_000, np.random.default_rng(1))
    eta = np.array(DESIGNS["dense-4.5"].intercepts) + made.x @ made.coef.T
    np.testing.assert_allclose(np.cumsum(made.probabilities, axis=1)[:, :-1], expit(eta))
    assert made.probabilities.min() >= 0
    shares = np.bincount(made.y) / len(made.y)
    np.testing.assert_allclose(shares, made.probabilities.mean(axis=0), atol=0.012)


def test_outcomes_follow_each_rows_probabilities():
    rng = np.random.default_rng(0)
    row = np.tile([0.5, 0.2, 0.0, 0.3], (40_000, 1))
    shares = np.bincount(outcomes(row, rng), minlength=4) / len(row)
    np.testing.assert_allclose(shares, row[0], atol=0.01)


def test_an_impossible_design_says_so():
    with pytest.raises(ValueError, match="ordered curves"):
        draw(Design(None, (0.0, -5.0)), 200, np.random.default_rng(0))
    with pytest.raises(ValueError, match="stayed empty"):
        draw(Design(None, (0.0, 40.0)), 200, np.random.default_rng(0))

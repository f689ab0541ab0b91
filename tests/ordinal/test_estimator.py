"""The estimators: scikit-learn's own checks, their documented examples, wrong parameters."""

import doctest

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from methods.ordinal import estimator
from methods.ordinal.estimator import PRESTO, PRESTOCV
from methods.ordinal.solver import Problem

# None is left out.  Scikit-learn itself skips check_array_api_input: it asks for an environment variable.
EXPECTED_FAILURES: dict[str, str] = {}


@parametrize_with_checks(
    [PRESTO(), PRESTOCV(n_lambdas=5, cv=3)], expected_failed_checks=lambda _: EXPECTED_FAILURES
)
@pytest.mark.filterwarnings("ignore::methods.ordinal.solver.NotConverged")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def sample(rows=300, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    return x, np.digitize(x[:, 0] - x[:, 1] + rng.logistic(size=rows), [0.0, 2.5])


def test_documented_examples_run():
    result = doctest.testmod(estimator)
    assert result.attempted >= 10
    assert result.failed == 0


def test_the_fit_is_the_solvers_on_the_original_scale():
    x, y = sample()
    model = PRESTO(lam=0.02).fit(x, y)
    path = Problem(x, y, 3).path(np.array([0.02]))
    np.testing.assert_array_equal(model.coef_, path.coefs[0])
    np.testing.assert_allclose(model.differences_[1], model.coef_[1] - model.coef_[0])
    assert model.objective_ == path.objectives[0]
    assert model.kkt_ <= 1e-7


def test_labels_in_words_take_their_order_from_the_user():
    x, y = sample()
    words = np.array(["low", "middle", "high"])[y]
    model = PRESTO(order=["low", "middle", "high"]).fit(x, words)
    np.testing.assert_allclose(model.predict_proba(x), PRESTO().fit(x, y).predict_proba(x))
    assert model.classes_.tolist() == ["low", "middle", "high"]
    # Alphabetical order ("high" < "low" < "middle") is another model.
    assert not np.allclose(
        PRESTO().fit(x, words).predict_proba(x), model.predict_proba(x)[:, [2, 0, 1]]
    )


def test_path_is_falling_and_ends_in_the_fit():
    x, y = sample()
    path = PRESTO().path(x, y, lambdas=[0.001, 0.1, 0.01])
    assert path.lambdas.tolist() == [0.1, 0.01, 0.001]
    np.testing.assert_allclose(path.coefs[1], PRESTO(lam=0.01).fit(x, y).coef_, atol=1e-5)


def test_cross_validated_choice():
    x, y = sample()
    model = PRESTOCV(random_state=0).fit(x, y)
    rows = np.array([60, 60, 60, 60, 60])
    mean = rows @ model.brier_path_ / rows.sum()
    assert model.lam_ == model.lambdas_[mean.argmin()]
    np.testing.assert_allclose(model.coef_, PRESTO(lam=model.lam_).fit(x, y).coef_, atol=1e-4)
    same = PRESTOCV(random_state=0).fit(x, y)
    np.testing.assert_array_equal(same.coef_, model.coef_)


def test_splitters_and_the_usual_company():
    x, y = sample()
    model = PRESTOCV(cv=KFold(4, shuffle=True, random_state=1), n_lambdas=6).fit(x, y)
    assert model.brier_path_.shape == (4, 6)
    search = GridSearchCV(PRESTO(), {"lam": [0.3, 0.01]}, cv=3, scoring="neg_log_loss").fit(x, y)
    assert search.best_params_ == {"lam": 0.01}
    pipeline = make_pipeline(StandardScaler(), PRESTO(lam=0.01))
    assert cross_val_score(pipeline, x, y, cv=3).mean() > 0.55
    assert clone(PRESTO(lam=0.5)).lam == 0.5
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    assert PRESTO().fit(frame, y).feature_names_in_.tolist() == ["a", "b", "c"]


def test_probabilities_beyond_the_data_stay_probabilities():
    x, y = sample()
    model = PRESTO(lam=1e-4).fit(x, y)
    far = model.predict_proba(100 * np.random.default_rng(0).normal(size=(200, 3)))
    assert (far >= 0).all()
    np.testing.assert_allclose(far.sum(axis=1), 1.0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (PRESTO(lam=-1.0), "lam=-1.0"),
        (PRESTO(lam=np.nan), "lam=nan"),
        (PRESTO(lam="0.1"), "lam='0.1'"),
        (PRESTO(l1_ratio=1.5), "l1_ratio=1.5"),
        (PRESTO(max_iter=0), "max_iter=0"),
        (PRESTO(feasible="all"), "'observed' and 'all_rows'"),
        (PRESTO(order=[0, 1]), r"not in order \[2\]"),
        (PRESTO(order=[0, 1, 2, 3]), r"without a row \[3\]"),
        (PRESTO(order=[0, 1, 2, 2]), "twice"),
        (PRESTOCV(cv=1), "cv=1"),
        (PRESTOCV(lambdas=[-0.1]), "not negative"),
        (PRESTOCV(lambdas=[]), "at least one number"),
        (PRESTOCV(ratio=2.0), "ratio=2.0"),
        (PRESTOCV(n_lambdas=0), "n_lambdas=0"),
        (PRESTOCV(cv=ShuffleSplit(3, random_state=0)), "each row once"),
    ],
)
def test_wrong_parameters_are_named(model, words):
    with pytest.raises(ValueError, match=words):
        model.fit(*sample())


def test_wrong_data_are_named():
    x, y = sample()
    with pytest.raises(ValueError, match="one class"):
        PRESTO().fit(x, np.zeros(len(y)))
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        PRESTO().fit(x, y)

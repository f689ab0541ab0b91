"""The estimator as a user has it, beside scikit-learn's own checks."""

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from methods.mixtures.estimator import MixtureOfExperts, NotConverged, NotIdentified


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(800, 2))
    left = x[:, 0] + 0.1 * rng.normal(size=800) < 0
    y = np.where(left, -2 + x[:, 1], 3 * x[:, 0]) + 0.1 * rng.normal(size=800)
    return x, y, left


def test_it_finds_the_experts_and_the_gate(data):
    x, y, left = data
    model = MixtureOfExperts(random_state=0).fit(x, y)
    order = np.argsort(model.intercept_)
    np.testing.assert_allclose(model.intercept_[order], [-2, 0], atol=0.05)
    np.testing.assert_allclose(model.coef_[order], [[0, 1], [3, 0]], atol=0.1)
    gate = model.predict_proba(x)
    np.testing.assert_allclose(gate.sum(1), 1)
    assert np.mean((gate[:, order[0]] > 0.5) == left) > 0.93
    assert model.converged_
    assert model.empty_experts_ == 0
    assert model.score(x, y) == pytest.approx(model.log_likelihood_ / len(x))
    assert np.mean((model.predict(x) - y) ** 2) < 0.3 * y.var()
    assert np.mean(model.responsibilities(x, y).argmax(1) == np.where(left, *order)) > 0.95


def test_standard_errors_shrink_with_rows(data):
    x, y, _ = data
    model = MixtureOfExperts(random_state=0).fit(x, y)
    few = model.standard_errors(x[:200], y[:200])
    many = model.standard_errors(x, y)
    assert all(many[name] < few[name] for name in many)
    assert 0.001 < many["b_1"] < 0.05


def test_a_top_k_gate_uses_k_experts(data):
    x, y, _ = data
    gate = MixtureOfExperts(4, active=2, random_state=0).fit(x, y).predict_proba(x)
    assert ((gate > 0).sum(1) == 2).all()


def test_a_temperature_that_is_not_identified_is_said_with_the_reason(data):
    x, y, _ = data
    with pytest.warns(NotIdentified, match="scale"):
        model = MixtureOfExperts(temperature=True, random_state=0).fit(x, y)
    with pytest.warns(NotIdentified, match=r"direction .*tau"):
        errors = model.standard_errors(x, y)
    assert np.isinf(errors["tau"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotIdentified)
        MixtureOfExperts(activation="tanh", temperature=True, max_iter=2000, random_state=0).fit(
            x, y
        )


def test_too_few_iterations_are_said(data):
    x, y, _ = data
    with pytest.warns(NotConverged, match="raise max_iter"):
        assert not MixtureOfExperts(4, max_iter=3, random_state=0).fit(x, y).converged_


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"active": 3}, "active 3: there are 2 experts"),
        ({"activation": "gleu"}, "did you mean 'gelu'"),
        ({"ranking": "bias"}, "allowed: slope, logit"),
        ({"n_experts": 200}, "too few rows"),
    ],
)
def test_settings_that_cannot_work(data, options, words):
    x, y, _ = data
    with pytest.raises(ValueError, match=words):
        MixtureOfExperts(**options).fit(x, y)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(data, bad):
    x, y, _ = data
    broken = y.copy()
    broken[3] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        MixtureOfExperts().fit(x, broken)
    assert clone(MixtureOfExperts(3)).n_experts == 3


@parametrize_with_checks(
    [MixtureOfExperts(1, n_init=1)],
    expected_failed_checks=lambda estimator: {
        "check_regressors_no_decision_function": "predict_proba is the gate, of which it has one"
    },
)
def test_scikit_learns_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)

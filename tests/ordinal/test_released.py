"""The defects of the published code, each shown; and its stored numbers, reproduced."""

import numpy as np
import pytest

from methods.ordinal.crossvalidation import choose, stratified_folds
from methods.ordinal.likelihood import linear_predictors, raw_probabilities
from methods.ordinal.metrics import brier_classes, osce, osce_released
from methods.ordinal.released import ReleasedProblem, choose_released, unstratified_folds
from methods.ordinal.solver import Problem
from tests.ordinal import golden


@pytest.mark.parametrize("name", golden.NAMES)
def test_follows_the_published_path_step_by_step(name):
    x, y = golden.data(name)
    known = golden.published(name)
    path = ReleasedProblem(x, y, known["K"]).path(np.array(known["lambda"]))
    assert path.steps.tolist() == known["iterOut"]
    psi = np.diff(path.coefs, axis=1, prepend=0.0).reshape(20, -1)
    np.testing.assert_allclose(psi, known["psi_original"], atol=1e-6)
    np.testing.assert_allclose(path.theta[:, : known["K"] - 1], known["alpha_std"], atol=1e-6)


@pytest.mark.parametrize("name", golden.NAMES)
def test_d1_intercepts_are_corrected_with_differences_instead_of_slopes(name):
    x, y = golden.data(name)
    known = golden.published(name)
    lambdas = np.array(known["lambda"])
    released = ReleasedProblem(x, y, known["K"]).path(lambdas)
    np.testing.assert_allclose(released.intercepts, known["alpha_official"], atol=1e-6)
    # Moving x by 2 must not move a prediction: theirs moves, ours does not.
    lambdas = lambdas[-1:]
    ours = [Problem(x + s, y, known["K"]).path(lambdas).predictors(x + s) for s in (0.0, 2.0)]
    theirs = [ReleasedProblem(x + s, y, known["K"]).path(lambdas) for s in (0.0, 2.0)]
    np.testing.assert_allclose(ours[0], ours[1], atol=1e-4)
    moved = theirs[1].predictors(x + 2.0) - theirs[0].predictors(x)
    np.testing.assert_allclose(moved[..., 0], 0.0, atol=1e-6)
    assert np.abs(moved[..., 1:]).min() > 1.0


def test_d1_intercepts_after_a_shift_are_the_published_ones():
    x, y = golden.data("synth_centered")
    lam = np.array(golden.published("synth_centered")["lambda"][-1:])
    theirs = ReleasedProblem(x + 2.0, y, 4).path(lam).intercepts[0]
    ours = Problem(x + 2.0, y, 4).path(lam).intercepts[0]
    np.testing.assert_allclose(theirs, [-2.645, 2.853, 3.753], atol=2e-3)
    np.testing.assert_allclose(ours, [-2.645, 0.163, 1.491], atol=2e-3)


@pytest.mark.parametrize("name", golden.NAMES)
def test_d2_cross_validation_takes_differences_for_slopes(name):
    x, y = golden.data(name)
    known, folds = golden.published(name), golden.fold_of(name)
    lambdas = np.array(known["lambda"])
    theirs = choose_released(x, y, known["K"], lambdas, folds)
    np.testing.assert_allclose(theirs.scores, known["brier_official"], atol=2e-5)
    assert theirs.lam == known["lambda_star_official"]
    # The very same fits with the right slopes have other scores: the stored, corrected ones.
    scores = np.zeros(20)
    for fold in range(5):
        held = folds == fold
        problem = ReleasedProblem(x[~held], y[~held], known["K"])
        path = problem.path(lambdas)
        joint = (x[held] - problem.mean) @ np.swapaxes(path.coefs, 1, 2)
        eta = joint + path.theta[:, None, : known["K"] - 1]
        scores += brier_classes(raw_probabilities(eta), y[held]) / 5
    np.testing.assert_allclose(scores, known["brier_corrected"], atol=2e-5)
    assert np.abs(scores - theirs.scores).max() > 1e-4


def test_d2_changes_the_choice():
    """On uncentred columns with slopes shared by all classes, psi_k = 0 for k >= 2 predicts nonsense."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(600, 3)) + 1.0
    y = np.digitize(x @ [1.0, -1.0, 0.5] + rng.logistic(size=600), [0.0, 1.5, 3.0])
    folds = stratified_folds(y, 5, rng)
    lambdas = Problem(x, y, 4).lambdas(20, 0.01)
    ours, theirs = choose(x, y, 4, lambdas, folds), choose_released(x, y, 4, lambdas, folds)
    assert theirs.scores.min() > ours.scores.min() + 0.02
    assert theirs.lam > 2 * ours.lam


def test_d3_calibration_error_of_unsorted_predictions():
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 5000)
    event = rng.random(5000) < p
    # Perfect predictions have next to no calibration error; as released it is large ...
    assert osce(p, event) < 0.005
    assert osce_released(p, event) > 0.1
    # ... and a useless constant near zero looks better than the truth.
    rare = rng.random(5000) < 0.13 * 2 * p
    assert osce_released(np.full(5000, 1e-3), rare) < osce_released(2 * p * 0.13, rare) * 2.5
    assert osce(np.full(5000, 1e-3), rare) > 10 * osce(2 * p * 0.13, rare)


def test_d5_line_search_jams_at_the_edge_and_copies_its_fit():
    """In the stored folds of synth_centered: one path stops moving though its optimum is far."""
    x, y = golden.data("synth_centered")
    lambdas = np.array(golden.published("synth_centered")["lambda"])
    folds = golden.fold_of("synth_centered")
    jammed = []
    for fold in range(5):
        kept = folds != fold
        theirs = ReleasedProblem(x[kept], y[kept], 4).path(lambdas)
        if theirs.steps[-1] > 0:
            continue
        jammed.append(fold)
        ours = Problem(x[kept], y[kept], 4).path(lambdas)
        held = Problem(x[kept], y[kept], 4, feasible="all_rows").path(lambdas)
        np.testing.assert_array_equal(theirs.theta[-1], theirs.theta[-2])
        assert theirs.kkt[-1] > 100 * ours.kkt.max()
        # Even under their own constraint there is a better fit, and without it a better one still.
        assert theirs.objectives[-1] > held.objectives[-1] + 1e-4
        assert held.objectives[-1] > ours.objectives[-1]
    assert jammed


def test_a_fold_without_the_rare_class_keeps_finite_intercepts():
    x, y = golden.data("synth_K3_p2")
    kept = y < 2
    problem = ReleasedProblem(x[kept], y[kept], 3)
    assert problem.null[1] == 100.0


def test_unstratified_folds_are_equal_in_size():
    folds = unstratified_folds(103, 5, np.random.default_rng(0))
    assert sorted(np.bincount(folds)) == [20, 20, 21, 21, 21]


def test_slopes_are_right_in_spite_of_d1():
    x, y = golden.data("synth_centered")
    lam = np.array(golden.published("synth_centered")["lambda"][5:6])
    ours, theirs = Problem(x, y, 4).path(lam), ReleasedProblem(x, y, 4).path(lam)
    np.testing.assert_allclose(ours.coefs, theirs.coefs, atol=1e-4)
    eta = linear_predictors(x, ours.intercepts[0], ours.coefs[0])
    assert eta.shape == (400, 3)

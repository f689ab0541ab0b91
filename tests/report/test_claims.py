import math

import pytest

from methods.report.claims import (
    NOT_REPRODUCED,
    NOT_TESTABLE,
    PARTLY,
    REPRODUCED,
    UNDECIDED,
    judge,
)
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

CLEAR = [[10.0, 10.2, 9.9], [12.0, 12.3, 12.0]]
TIE = [[10.0, 12.0, 11.0], [11.0, 10.5, 11.4]]


def claim(workbench, check, **more):
    workbench.study["claims"] = {"it": {"text": "t", "source": "s", "check": check, **more}}
    (found,) = judge(workbench.cells())
    return found


def two(workbench, a, b, **options):
    return workbench.measured("a", {"ppl": a}, **options).measured("b", {"ppl": b}, **options)


A_BEATS_B = {"metric": "ppl", "better": ["a"], "than": ["b"]}


def test_a_clear_win_is_reproduced_with_the_paired_interval(workbench):
    found = claim(two(workbench, *CLEAR), A_BEATS_B)
    assert found.verdict == REPRODUCED
    (one,) = found.comparisons
    # differences -2.0, -2.1, -2.1: mean -2.0667, s = 0.057735
    assert one.difference.value == pytest.approx(-2.0666667)
    half = 4.30265273 * 0.057735027 / math.sqrt(3)
    assert one.difference.high == pytest.approx(-2.0666667 + half, rel=1e-6)
    assert "a against b: −2.07 (−2.21 to −1.92) (n = 3 seeds" in one.sentence


def test_higher_is_better_turns_the_direction(workbench):
    found = claim(two(workbench, *CLEAR, higher_is_better=True), A_BEATS_B)
    assert found.verdict == NOT_REPRODUCED
    assert "the opposite" in found.summary


def test_a_tie_is_undecided(workbench):
    found = claim(two(workbench, *TIE), A_BEATS_B)
    assert found.verdict == UNDECIDED
    assert found.comparisons[0].state == "open"
    assert "does not exclude" in found.summary


def test_the_opposite_is_not_reproduced(workbench):
    found = claim(two(workbench, *reversed(CLEAR)), A_BEATS_B)
    assert found.verdict == NOT_REPRODUCED
    assert found.comparisons[0].state == "against"


def test_one_seed_is_a_direction_and_never_reproduced(workbench):
    found = claim(two(workbench, [1.0], [100.0]), A_BEATS_B)
    assert found.verdict == PARTLY
    assert "direction only (no spread to judge by)" in found.summary
    assert "one seed, no interval" in found.comparisons[0].sentence


def test_one_seed_in_the_wrong_direction(workbench):
    assert claim(two(workbench, [100.0], [1.0]), A_BEATS_B).verdict == NOT_REPRODUCED


def test_units_give_one_seed_an_interval(workbench):
    a = Metric(1.5, values=[1.0, 1.1, 2.4], labels=["x", "y", "z"], higher_is_better=False)
    # other order, one unit more: paired by label
    b = Metric(
        2.5, values=[3.5, 2.0, 2.1, 9.0], labels=["z", "x", "y", "w"], higher_is_better=False
    )
    found = claim(two(workbench, [a], [b]), {**A_BEATS_B, "over": "units"})
    assert found.verdict == REPRODUCED
    assert found.comparisons[0].difference.n == 3
    assert found.comparisons[0].difference.value == pytest.approx((-1 - 1 - 1.1) / 3)


def test_units_that_were_not_kept_are_an_error(workbench):
    with pytest.raises(RetrofitError, match=r"claims.it.*'ppl' was measured without single values"):
        claim(two(workbench, [1.0], [2.0]), {**A_BEATS_B, "over": "units"})


def test_counts_are_exact(workbench):
    found = claim(two(workbench, [1.0], [2.0], deterministic=True), A_BEATS_B)
    assert found.verdict == REPRODUCED
    assert "(exact)" in found.comparisons[0].sentence


def test_what_is_counted_is_exact_whatever_the_number_of_seeds(workbench):
    cells = two(workbench, [10.0, 10.0], [12.0, 12.0])
    assert claim(cells, {**A_BEATS_B, "over": "counts"}).verdict == REPRODUCED
    band = {"metric": "ppl", "variant": "a", "low": 9.9, "high": 10.1, "over": "counts"}
    assert claim(cells, band).verdict == REPRODUCED
    assert claim(cells, {**band, "low": 10.05}).verdict == NOT_REPRODUCED


@pytest.mark.parametrize(
    "check", [A_BEATS_B, {"metric": "ppl", "variant": "a", "high": 20.0}], ids=["order", "band"]
)
def test_a_count_that_differs_between_seeds_is_none(workbench, check):
    cells = two(workbench, [10.0, 10.5], [12.0, 12.0])
    with pytest.raises(RetrofitError, match=r"no count.*between 10.0 and 10.5"):
        claim(cells, {**check, "over": "counts"})


def test_a_deterministic_estimate_is_not_exact(workbench):
    a, b = (Metric(v, stderr=0.1, n=9, higher_is_better=False) for v in (1.0, 2.0))
    assert claim(two(workbench, [a], [b], deterministic=True), A_BEATS_B).verdict == PARTLY


def test_a_deterministic_baseline_stands_for_every_seed(workbench):
    workbench.measured("a", {"ppl": [1.0, 1.1, 1.2]}).measured(
        "b", {"ppl": [3.0]}, deterministic=True
    )
    (one,) = claim(workbench, A_BEATS_B).comparisons
    assert (one.difference.n, one.state) == (3, "holds")


def test_seeds_are_paired_on_those_that_both_have(workbench):
    workbench.measured("a", {"ppl": [1.0, 1.1, 1.2]}).measured("b", {"ppl": [3.0]})
    assert claim(workbench, A_BEATS_B).comparisons[0].difference.n == 1


def test_margin_must_be_exceeded(workbench):
    found = claim(two(workbench, *CLEAR), {**A_BEATS_B, "margin": 1.0})
    assert found.verdict == REPRODUCED
    found = claim(workbench, {**A_BEATS_B, "margin": 3.0})
    assert found.comparisons[0].state == "against"


def test_holm_over_the_comparisons_of_one_claim(workbench):
    """Alone p = 0.03 holds; among three comparisons it no longer does."""
    workbench.measured("a", {"ppl": [0.0, 0.0, 0.0]})
    # differences d ± s with t = d/(s/sqrt(3)); t = 5.6 gives p = 0.030 at 2 degrees of freedom
    s = math.sqrt(3) / 5.6
    weak = [1 - s, 1.0, 1 + s]
    for name in ("b", "c", "d"):
        workbench.measured(name, {"ppl": weak})
    alone = claim(workbench, {**A_BEATS_B, "than": ["b"]})
    assert alone.verdict == REPRODUCED
    assert alone.comparisons[0].p == pytest.approx(0.0304, abs=2e-4)
    together = claim(workbench, {**A_BEATS_B, "than": ["b", "c", "d"]})
    assert together.comparisons[0].p_holm == pytest.approx(3 * 0.0304, abs=1e-3)
    assert together.verdict == UNDECIDED


def test_some_settings_hold(workbench):
    two(workbench, *CLEAR, setting="first")
    two(workbench, *TIE, setting="second")
    found = claim(workbench, A_BEATS_B)
    assert found.verdict == PARTLY
    assert "1 of 2 comparisons hold" in found.summary
    assert claim(workbench, {**A_BEATS_B, "settings": ["first"]}).verdict == REPRODUCED


def test_equivalence_needs_the_whole_interval_inside(workbench):
    two(workbench, [10.0, 10.1, 9.9], [10.05, 10.1, 9.95])
    check = {"metric": "ppl", "variant": "a", "as_good_as": "b"}
    assert claim(workbench, {**check, "tolerance": 0.2}).verdict == REPRODUCED
    # mean -0.033 and half-width 0.072: inside 0.2, not inside 0.05 on the good side … one-sided forgives that
    assert claim(workbench, {**check, "tolerance": 0.05, "one_sided": False}).verdict == UNDECIDED
    assert claim(workbench, {**check, "tolerance": 0.05}).verdict == REPRODUCED


def test_being_much_better_is_forgiven_on_one_side_only(workbench):
    two(workbench, *CLEAR)
    check = {"metric": "ppl", "variant": "a", "as_good_as": "b", "tolerance": 0.5}
    assert claim(workbench, check).verdict == REPRODUCED
    assert claim(workbench, {**check, "one_sided": False}).verdict == NOT_REPRODUCED


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ({"low": 9.0, "high": 11.0}, REPRODUCED),
        ({"low": 9.99, "high": 11.0}, UNDECIDED),
        ({"low": 11.0}, NOT_REPRODUCED),
        ({"high": 11.0}, REPRODUCED),
    ],
)
def test_band_takes_the_whole_interval(workbench, bounds, verdict):
    workbench.measured("a", {"ppl": [10.0, 10.1, 9.9]})
    assert claim(workbench, {"metric": "ppl", "variant": "a", **bounds}).verdict == verdict


def test_untestable_and_what_the_tier_leaves_out(workbench):
    two(workbench, *CLEAR)
    workbench.study["claims"] = {"it": {"text": "t", "source": "s", "untestable": "needs 70B"}}
    (found,) = judge(workbench.cells())
    assert (found.verdict, found.summary) == (NOT_TESTABLE, "needs 70B")
    workbench.tier = "quick"
    found = claim(workbench, {**A_BEATS_B, "than": ["absent"]})
    assert found.verdict == NOT_TESTABLE
    assert found.missing == ("absent",)
    found = claim(workbench, {**A_BEATS_B, "than": ["b", "absent"]})
    assert found.verdict == PARTLY
    assert "not run in tier quick: absent" in found.summary


def test_a_metric_that_nothing_measured_is_an_error_with_a_guess(workbench):
    with pytest.raises(RetrofitError, match="did you mean 'ppl'"):
        claim(two(workbench, *CLEAR), {**A_BEATS_B, "metric": "pppl"})


def test_a_metric_without_direction_cannot_be_better(workbench):
    two(workbench, *CLEAR, higher_is_better=None)
    with pytest.raises(RetrofitError, match="does not say whether higher is better"):
        claim(workbench, A_BEATS_B)


def test_one_tie_beside_one_loss_is_not_reproduced(workbench):
    two(workbench, *TIE, setting="first")
    two(workbench, *reversed(CLEAR), setting="second")
    found = claim(workbench, A_BEATS_B)
    assert found.verdict == NOT_REPRODUCED
    assert "1 undecided; 1 the opposite" in found.summary

"""Whole runs of the three methods: data shared, replicates nested, resumed to the same numbers; wrong input."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from methods.data.kinds import Table
from methods.models import estimates
from methods.ordinal import presto, proportional_odds, rare_logit
from methods.ordinal.params import Presto, ProportionalOdds, RareLogit
from methods.ordinal.replicates import checked, limited, split, stratified_test_rows, synthetic
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context
from methods.study.errors import RetrofitError

SMALL = {"design": "dense-4.5", "rows": 600, "replicates": 3}
APPLY = {
    "presto": (presto.apply, Presto(**SMALL)),
    "presto-l2": (presto.apply, Presto(**SMALL, l1_ratio=0.0, lambdas=8)),
    "published": (presto.apply, Presto(**SMALL, code="published_code", lambdas=8)),
    "proportional-odds": (proportional_odds.apply, ProportionalOdds(**SMALL)),
    "logit": (rare_logit.apply, RareLogit(**SMALL)),
}


def table(rows=300, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    y = np.digitize(x.sum(axis=1) + rng.logistic(size=rows), [0.0, 3.0])
    return Table("little.train", x, y, ["a", "b", "c"], ["low", "middle", "high"])


def numbers(records):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in records]


@pytest.mark.parametrize("name", APPLY)
def test_a_run_on_a_design(name):
    apply, params = APPLY[name]
    found = apply(None, {}, params, Context())
    expected = {"rare_mse", "brier_rare", "log_loss", "osce", "osce_released", "seconds"}
    assert set(found.metrics) == expected
    metric = found.metrics["rare_mse"]
    assert metric.labels == ["0", "1", "2"]
    assert metric.value == pytest.approx(np.mean(metric.values))
    assert 0 < metric.value < 0.01
    assert numbers(apply(None, {}, params, Context()).records) == numbers(found.records)


def test_every_method_sees_the_same_data_and_fewer_replicates_are_the_first():
    few = presto.apply(None, {}, Presto(**{**SMALL, "replicates": 2}, lambdas=5), Context())
    many = rare_logit.apply(None, {}, RareLogit(**SMALL), Context())
    assert [r["rare_share"] for r in few.records] == [r["rare_share"] for r in many.records][:2]
    one, again = (synthetic("dense-5", 400, 7, Context()) for _ in range(2))
    np.testing.assert_array_equal(one.x, again.x)
    other = synthetic("dense-5", 400, 7, Context(seed=1))
    assert (one.x != other.x).any()


@pytest.mark.parametrize("name", ["presto", "proportional-odds", "logit"])
def test_a_run_on_a_table(name):
    apply, params = APPLY[name]
    params = type(params)(splits=2)
    found = apply(None, {"train": [table()]}, params, Context())
    assert "rare_mse" not in found.metrics
    assert found.arrays["coef"].shape[0] == 2
    share = np.mean(table().y == 2)
    assert found.records[0]["mean_predicted"] == pytest.approx(share, abs=0.08)


def test_estimates_come_back_from_disk(tmp_path):
    found = proportional_odds.apply(None, {}, ProportionalOdds(**SMALL), Context())
    found.save(tmp_path)
    again = estimates.load(tmp_path)
    assert again.records == [{**row, "replicate": int(row["replicate"])} for row in found.records]
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_a_killed_run_resumes_to_the_same_numbers(tmp_path):
    params = Presto(**SMALL, lambdas=5)
    whole = presto.apply(None, {}, params, Context())

    class Eager(Checkpoint):
        def every(self, seconds):
            return True

    class Dying(Context):
        def progress(self, iterable, total=None, label=""):
            for count, item in enumerate(iterable):
                if count == 2:
                    raise KeyboardInterrupt
                yield item

    with pytest.raises(KeyboardInterrupt):
        presto.apply(None, {}, params, Dying(checkpoint=Eager(tmp_path)))
    assert len(Checkpoint(tmp_path).load()["state"]["rows"]) == 2
    resumed = presto.apply(None, {}, params, Context(checkpoint=Checkpoint(tmp_path)))
    assert numbers(resumed.records) == numbers(whole.records)
    np.testing.assert_array_equal(resumed.arrays["coef"], whole.arrays["coef"])


def test_a_split_holds_out_its_share_of_every_class():
    source = table(1000)
    part = split(source, 0.1, 0, Context())
    assert len(part.y_test) == 100
    expected = np.bincount(source.y) * 0.1
    np.testing.assert_allclose(np.bincount(part.y_test), expected, atol=1.0)
    assert len(part.y) + len(part.y_test) == 1000


def test_test_rows_are_random():
    y = np.repeat([0, 1], [900, 100])
    counts = sum(
        stratified_test_rows(y, 0.1, np.random.default_rng(seed)).astype(int) for seed in range(500)
    )
    # Binomial(500, .1): mean 50, standard deviation 6.7.
    assert counts.mean() == pytest.approx(50, abs=0.2)
    assert counts.std() == pytest.approx(6.7, abs=0.7)


def test_proportional_odds_is_the_published_polr():
    from tests.ordinal import golden

    for name in golden.NAMES:
        x, y = golden.data(name)
        known = golden.published(name)
        intercept, slope = proportional_odds.fit_proportional_odds(x, y, known["K"])
        # polr stops early: relative change of 1e-8 in its deviance.
        np.testing.assert_allclose(intercept, known["polr_zeta"], atol=1e-3)
        np.testing.assert_allclose(-slope, known["polr_coef"], atol=1e-3)


def test_proportional_odds_is_statsmodels():
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    source = table(500)
    intercept, slope = proportional_odds.fit_proportional_odds(source.x, source.y, 3)
    peer = OrderedModel(source.y, source.x, distr="logit").fit(method="bfgs", disp=0, gtol=1e-8)
    cuts = peer.model.transform_threshold_params(peer.params)[1:-1]
    np.testing.assert_allclose(-slope, peer.params[:3], atol=1e-5)
    np.testing.assert_allclose(intercept, cuts, atol=1e-5)


def test_the_logit_is_the_published_glm():
    from tests.ordinal import golden

    x, y = golden.data("synth_centered")
    known = golden.published("synth_centered")["logit_coefs"][-1]
    from methods.ordinal.replicates import Replicate

    replicate = Replicate("0", 4, x, y, x, y, None)
    fitted = rare_logit._fit(replicate, np.random.default_rng(0))
    # glm models the rare class, ours the rest.
    np.testing.assert_allclose(-np.append(fitted.intercept, fitted.coef), known, atol=1e-5)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, y == 3)
    np.testing.assert_allclose(fitted.rare(x), peer.predict_proba(x)[:, 1], atol=1e-6)


def test_separated_classes_are_counted():
    x = np.linspace(-1, 1, 400)[:, None]
    separable = Table("s.train", x, np.repeat([0, 1, 2, 3], 100), ["x"], list("abcd"))
    for name in ("logit", "proportional-odds"):
        apply, params = APPLY[name]
        found = apply(None, {"train": [separable]}, type(params)(splits=1), Context())
        assert found.records[0]["unconverged"] == 1
        assert np.isfinite(found.metrics["log_loss"].value)


def test_neither_or_both_sources_are_refused():
    with pytest.raises(RetrofitError, match="either `design` or one table"):
        presto.apply(None, {}, Presto(), Context())
    with pytest.raises(RetrofitError, match="design dense-5 and 1 data set"):
        presto.apply(None, {"train": [table()]}, Presto(design="dense-5"), Context())


def test_bad_tables_are_named():
    good = table()
    x = good.x.copy()
    x[4, 1] = np.nan
    with pytest.raises(RetrofitError, match=r"little.train: column 'b' is not finite in row 5"):
        checked(Table(good.name, x, good.y, good.columns, good.classes))
    with pytest.raises(RetrofitError, match="class 'extreme' has 0 rows"):
        checked(Table(good.name, good.x, good.y, good.columns, [*good.classes, "extreme"]))
    with pytest.raises(RetrofitError, match="two classes, found 1"):
        checked(Table(good.name, good.x, 0 * good.y, good.columns, ["only"]))


def test_the_path_is_the_papers_for_designs_and_for_tables():
    assert Presto(design="dense-5").path_shape() == (20, 0.01)
    assert Presto().path_shape() == (100, 1e-4)
    assert Presto(lambdas=7, ratio=0.5).path_shape() == (7, 0.5)


def test_a_limit_takes_the_same_rows_every_time():
    whole = table()
    assert limited(whole) is whole
    object.__setattr__(whole, "options", {"limit": 100})
    part = limited(whole)
    assert part.x.shape == (100, 3)
    np.testing.assert_array_equal(part.x, limited(whole).x)
    assert set(map(tuple, part.x)) <= set(map(tuple, whole.x))


def test_published_code_takes_no_options_of_ours():
    with pytest.raises(ValueError, match="leave out `feasible` and `penalize_first`"):
        Presto(code="published_code", feasible="all_rows")

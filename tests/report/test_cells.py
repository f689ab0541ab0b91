import math

import pytest

from methods.run.metrics import Metric
from methods.study.errors import RetrofitError


def test_interval_over_seeds_equals_the_hand_computed_one(workbench):
    cells = workbench.measured("a", {"ppl": [1.0, 2.0, 3.0]}).cells()
    interval = cells.get("default", "a").measurement("ppl").interval()
    # s = 1, standard error 1/sqrt(3), t(0.975, 2) = 4.30265
    assert interval.value == 2.0
    assert interval.high - 2.0 == pytest.approx(4.30265273 / math.sqrt(3), rel=1e-7)
    assert interval.n == 3


def test_a_cell_that_no_seed_enters_collapses_to_one_value(workbench):
    workbench.measured("a", {"ppl": [2.0]}, deterministic=True)
    workbench.made *= 3  # three seeds that share every run
    workbench.made = [
        type(c)(c.setting, c.variant, seed, c.chain, c.evaluations)
        for seed, c in enumerate(workbench.made)
    ]
    measurement = workbench.cells().get("default", "a").measurement("ppl")
    assert measurement.deterministic
    assert measurement.values == [2.0]
    assert measurement.interval().low is None


def test_one_seed_is_not_deterministic(workbench):
    measurement = (
        workbench.measured("a", {"ppl": [2.0]}).cells().get("default", "a").measurement("ppl")
    )
    assert not measurement.deterministic
    assert measurement.interval().n == 1


def test_exact_is_a_count_without_error_or_units(workbench):
    workbench.measured(
        "a", {"bytes": [8.0], "ppl": [Metric(2.0, stderr=0.1, n=4)]}, deterministic=True
    )
    cell = workbench.cells().get("default", "a")
    assert cell.measurement("bytes").exact
    assert not cell.measurement("ppl").exact


def test_units_use_the_runs_own_error_for_what_is_no_mean(workbench):
    metric = Metric(10.0, stderr=0.5, n=5)
    interval = (
        workbench.measured("a", {"ppl": [metric]})
        .cells()
        .cells[0]
        .measurement("ppl")
        .interval("units")
    )
    assert interval.value == 10.0
    assert interval.high == pytest.approx(10 + 2.7764451 * 0.5)  # t(0.975, 4)
    assert interval.n == 5


def test_units_of_several_seeds_are_averaged_first(workbench):
    seeds = [Metric(1.5, values=[1.0, 2.0]), Metric(3.5, values=[3.0, 4.0])]
    measurement = workbench.measured("a", {"nll": seeds}).cells().cells[0].measurement("nll")
    assert measurement.units() == {"0": 2.0, "1": 3.0}
    assert measurement.interval("units").value == 2.5


def test_wall_clock_is_not_comparable(workbench):
    workbench.measured("a", {"latency": [Metric(3.0, unit="ms/token")], "ppl": [2.0]})
    cell = workbench.cells().cells[0]
    assert not cell.measurement("latency").comparable
    assert cell.measurement("ppl").comparable
    workbench.measured("b", {"speed": [1.0]}, measure="decode_latency")
    assert not workbench.cells().cells[1].measurement("speed").comparable


def test_a_missing_run_is_named_with_the_command_that_makes_it(workbench):
    plan = workbench.measured("a", {"ppl": [1.0, 2.0]}).plan()
    lost = workbench.results / plan.cells[1].evaluations[0].directory
    for file in lost.iterdir():
        file.unlink()
    lost.rmdir()
    with pytest.raises(
        RetrofitError, match=rf"{lost.name} is missing.*snakemake --config study=demo tier=full"
    ):
        workbench.cells()


def test_a_run_with_a_foreign_key_is_refused(workbench):
    plan = workbench.measured("a", {"ppl": [1.0]}).plan()
    meta = workbench.results / plan.cells[0].evaluations[0].directory / "meta.json"
    meta.write_text(meta.read_text().replace(plan.cells[0].evaluations[0].key, "0" * 12))
    with pytest.raises(RetrofitError, match="holds a run with the key 000000000000"):
        workbench.cells()


def test_two_runs_of_a_cell_may_not_measure_the_same(workbench):
    workbench.measured("a", {"ppl": [1.0]}).measured("a", {"ppl": [1.0]}, measure="size")
    first, second = workbench.made
    workbench.made = [
        type(first)("default", "a", 0, first.chain, first.evaluations + second.evaluations)
    ]
    with pytest.raises(RetrofitError, match="two runs measure 'ppl'"):
        workbench.cells()


def test_an_infinite_metric_is_refused_by_name(workbench):
    workbench.measured("a", {"ppl": [math.inf]})
    with pytest.raises(RetrofitError, match="'ppl' is inf"):
        workbench.cells()


def test_the_order_of_the_plan_does_not_matter(workbench):
    workbench.measured("a", {"ppl": [1.0, 2.0, 3.0]})
    from methods.report.cells import gather

    shuffled = gather(workbench.plan([2, 0, 1]), workbench.results)
    assert shuffled.cells[0].measurement("ppl").values == [1.0, 2.0, 3.0]

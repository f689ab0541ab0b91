import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from methods.report.figures import draw, family
from methods.report.fits import fit
from methods.report.plots import pareto
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError


def drawn(workbench, tmp_path, **figure):
    workbench.study["figures"] = {"one": {"title": "A figure", **figure}}
    record = draw(workbench.cells(), tmp_path)["one"]
    return record, (tmp_path / record["file"]).read_text()


@pytest.fixture
def several(workbench):
    workbench.study["variants"] = {"dense": {"control": True, "label": "Dense & <full>"}}
    for variant, size, ppl in (("dense", 16.0, 10.0), ("a-w4", 4.0, 11.0), ("a-w3", 3.0, 12.0)):
        values = [Metric(ppl + d, higher_is_better=False) for d in (-0.2, 0.0, 0.2)]
        workbench.measured(variant, {"ppl": values, "size": [size]})
    return workbench


def test_scatter_names_its_points_and_is_the_same_twice(several, tmp_path):
    several.study["title"] = "$x$"
    record, svg = drawn(several, tmp_path / "first", kind="scatter", x="size", y="ppl")
    assert "a-w4" in svg
    assert "Dense &amp; &lt;full&gt;" in svg
    assert "<dc:date>" not in svg
    assert "Dense & <full>: 16.0, 10.0" in record["alt"]
    _, again = drawn(several, tmp_path / "second", kind="scatter", x="size", y="ppl")
    assert again == svg


def test_drawing_leaves_matplotlib_as_it_was(several, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    drawn(several, tmp_path, kind="bars", y="ppl")
    after = dict(matplotlib.rcParams)
    assert {k for k in before if before[k] != after[k]} <= {"backend"}


def test_bars_have_a_point_for_each_seed(several, tmp_path):
    _, svg = drawn(several, tmp_path, kind="bars", y="ppl", rows=["a-w4"])
    # Markers are <use> elements: three seeds and the mean.
    assert len(re.findall(r"<use [^>]*style=\"fill: #0072b2", svg)) == 4


def test_text_with_dollars_is_no_formula(several, tmp_path):
    _, svg = drawn(several, tmp_path, kind="bars", y="ppl", y_label="$ppl$ cost_of")
    assert "$ppl$ cost_of" in svg


def test_boxes_take_ratios_pair_by_pair(workbench, tmp_path):
    ours = Metric(2.0, values=[1.0, 2.0, 3.0], labels=["x", "y", "z"], higher_is_better=False)
    theirs = Metric(4.0, values=[6.0, 4.0, 4.0], labels=["z", "y", "x"], higher_is_better=False)
    workbench.measured("a", {"mse": [ours]}).measured("b", {"mse": [theirs]})
    record, svg = drawn(workbench, tmp_path, kind="boxes", y="mse", y_log=True, ratio_of="a")
    assert "a / b: median 0.500 of 3" in record["alt"]
    assert "below 1: a is better" in svg
    record, svg = drawn(workbench, tmp_path, kind="boxes", y="mse", ratio_to="a")
    assert "b / a: median 2.00 of 3" in record["alt"]
    assert "above 1: a is better" in svg


def test_curves_fit_both_laws_and_name_the_rejected(workbench, tmp_path):
    history = [
        [{"step": t, "distance": 0.5 + 2 * math.log(t)} for t in range(1, 200, 5)] for _ in "ab"
    ]
    workbench.measured("a", {"ppl": [1.0, 2.0]}, history=history)
    options = {"kind": "curves", "x": "step", "y": "distance", "x_log": True, "fit": "log"}
    record, svg = drawn(workbench, tmp_path, **options, fit_from=10)
    chosen, rejected = record["fits"]
    assert (chosen["law"], rejected["law"]) == ("log", "power")
    assert chosen["parameters"] == pytest.approx([0.5, 2.0])
    assert chosen["r_squared"] == pytest.approx(1.0)
    assert rejected["r_squared"] < 0.999
    assert "rejected: c x^p" in svg
    json.dumps(record, allow_nan=False)


def test_a_figure_without_data_is_an_error_in_full_and_left_out_elsewhere(workbench, tmp_path):
    workbench.measured("a", {"ppl": [1.0]})
    with pytest.raises(RetrofitError, match=r"figures.one: there is nothing to draw"):
        drawn(workbench, tmp_path, kind="curves", x="step", y="loss")
    workbench.tier = "quick"
    assert draw(workbench.cells(), tmp_path) == {}


def test_a_reference_line_can_belong_to_one_setting(workbench, tmp_path):
    for setting in ("one", "two"):
        workbench.measured("a", {"ppl": [1.0]}, setting=setting)
    _, svg = drawn(
        workbench, tmp_path, kind="bars", y="ppl", reference={"one/paper": 1.0, "both": 2.0}
    )
    assert svg.count(">paper<") == 1
    assert svg.count(">both<") == 2


@pytest.mark.parametrize(("law", "truth"), [("log", (1.5, -0.25)), ("power", (0.3, 0.7))])
def test_fits_recover_the_law(law, truth):
    x = np.geomspace(1, 1e4, 30)
    y = truth[0] + truth[1] * np.log(x) if law == "log" else truth[0] * x ** truth[1]
    found = fit(law, x, y)
    assert (found.first, found.second) == pytest.approx(truth, rel=1e-4)
    assert fit(law, [1, 1, 1], [1, 2, 3]) is None


def test_pareto_front():
    points = [(1, 5), (2, 3), (3, 3), (4, 1), (5, 6)]
    assert pareto(points, x_higher=False, y_higher=False) == [(1, 5), (2, 3), (4, 1)]
    assert pareto(points, x_higher=True, y_higher=True) == [(5, 6)]


def test_variants_that_differ_in_numbers_share_a_family():
    assert family("awq-w3") == family("awq-w4") != family("awq-scale-w3")
    assert family("scale-1.25") == family("scale-4.0")


def test_no_torch_and_no_eager_matplotlib():
    code = "import sys, methods.report.command; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_crowded_labels_keep_apart_with_lines_to_their_points(workbench):
    for index in range(12):
        workbench.measured(
            f"variant-{index}", {"ppl": [10 + index / 50], "size": [1 + index / 100]}
        )
    workbench.measured("far", {"ppl": [40.0], "size": [3.0]})
    workbench.study["figures"] = {"it": {"title": "t", "kind": "scatter", "x": "size", "y": "ppl"}}
    figures = draw(workbench.cells(), workbench.results)
    text = (workbench.results / figures["it"]["file"]).read_text()
    assert all(f"variant-{index}" in text for index in range(12))

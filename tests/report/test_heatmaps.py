import re

import numpy as np
import pytest

from methods.report.figures import draw
from methods.report.fits import fit
from methods.study.errors import SpecError
from methods.study.reporting import Figure

GRID = {"kind": "heatmap", "x": "alpha", "y": "T", "value": "error"}


def drawn(workbench, tmp_path, **figure):
    workbench.study["figures"] = {"one": {"title": "A figure", **GRID, **figure}}
    found = draw(workbench.cells(), tmp_path).get("one")
    return found and (found, (tmp_path / found["file"]).read_text())


def rows(scale=1.0, **changed):
    grid = [
        {"alpha": a, "T": t, "error": scale * a * t} for a in (0.1, 1.0, 10.0) for t in (1.0, 2.0)
    ]
    return [{**row, **changed} if row["alpha"] == 1.0 and row["T"] == 2.0 else row for row in grid]


def test_fields_hold_the_mean_over_seeds(workbench, tmp_path):
    workbench.measured("fc", {"ppl": [1.0, 1.0]}, history=[rows(), rows(scale=3.0)])
    record, svg = drawn(workbench, tmp_path, scale=100, x_log=True)
    # seeds 1 and 3 times alpha * T: lowest 2 * 0.1 * 1, highest 2 * 10 * 2, in percent
    assert (
        "lowest 20.0 at alpha 0.100, T 1.00, highest 4,000 at alpha 10.0, T 2.00" in record["alt"]
    )
    assert "without a value" not in record["alt"]
    assert "<image" not in svg
    assert svg == drawn(workbench, tmp_path / "again", scale=100, x_log=True)[1]


@pytest.mark.parametrize("nothing", [float("nan"), float("inf"), None])
def test_a_field_without_a_finite_value_is_crossed_and_counted(workbench, tmp_path, nothing):
    workbench.measured("fc", {"ppl": [1.0]}, history=[rows(error=nothing)])
    record, svg = drawn(workbench, tmp_path)
    assert "1 fields without a value" in record["alt"]
    assert svg.count(">×<") == 1


def test_one_seed_that_fails_leaves_the_others(workbench, tmp_path):
    workbench.measured("fc", {"ppl": [1.0, 1.0]}, history=[rows(), rows(error=float("nan"))])
    record, _ = drawn(workbench, tmp_path)
    assert "without a value" not in record["alt"]


def test_a_field_that_no_run_has_stays_blank(workbench, tmp_path):
    workbench.measured("fc", {"ppl": [1.0]}, history=[rows()[:-1]])
    record, svg = drawn(workbench, tmp_path)
    assert "without a value" not in record["alt"]
    assert ">×<" not in svg


def test_one_panel_for_each_variant_on_one_scale(workbench, tmp_path):
    workbench.measured("fc", {"ppl": [1.0]}, history=[rows()])
    workbench.measured("conv", {"ppl": [1.0]}, history=[rows(scale=2.0)])
    record, svg = drawn(workbench, tmp_path, value_log=True, value_label="test error")
    assert record["wide"]
    assert {"fc", "conv", "test error"} <= set(re.findall(r">([^<>]+)</text>", svg))


def test_a_tier_without_the_column_draws_nothing(workbench, tmp_path):
    workbench.tier = "quick"
    workbench.measured("fc", {"ppl": [1.0]}, history=[[{"step": 1}]])
    assert drawn(workbench, tmp_path) is None


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ({"kind": "heatmap", "x": "a", "y": "b"}, "heatmap needs value"),
        ({"kind": "heatmap", "y": "b", "value": "c"}, "heatmap needs x"),
        ({"kind": "bars", "y": "b", "value": "c"}, "value belongs to heatmap"),
    ],
)
def test_a_heatmap_says_what_it_shows(figure, words):
    with pytest.raises((SpecError, ValueError), match=words):
        Figure.model_validate({"title": "t", **figure})


def test_scaling_fits_the_logarithms():
    x = np.geomspace(1, 1e3, 7)
    y = 2.0 * x**-0.5
    y[0] *= 4  # pulls the fit in y far more than the fit in ln y
    expected = np.polyfit(np.log(x), np.log(y), 1)[0]
    assert fit("scaling", x, y).second == pytest.approx(expected)
    assert fit("power", x, y).second < expected - 0.1
    assert fit("scaling", x, -y) is None

import pytest

from methods.report.document import document, text
from methods.report.explain import explain
from methods.study.errors import RetrofitError


@pytest.fixture
def table(workbench, tmp_path):
    workbench.measured("a", {"ppl": [1.0, 2.0]}, params={"grid": 20}, setting="one")
    workbench.measured("a", {"ppl": [5.0, 6.0]}, params={"grid": 20}, setting="two")
    workbench.measured("b", {"ppl": [1.5, 2.5]}, setting="one")
    workbench.study["tables"] = {
        "main": {"title": "T", "columns": [{"metric": "ppl", "label": "P"}]}
    }
    check = {"metric": "ppl", "better": ["a"], "than": ["b"]}
    workbench.study["claims"] = {"wins": {"text": "A wins.", "source": "s", "check": check}}
    path = tmp_path / "demo.json"
    path.write_text(text(document(workbench.cells(), {})))
    return path


def test_the_descent_names_runs_settings_code_data_and_claims(table):
    said = explain(table, "one/a", "ppl")
    for part in (
        "mean 1.5, 95 % interval",
        "seed 1: 2.0",
        "method/a-",
        "evaluate/a.perplexity-",
        '"grid": 20',
        "data:text",
        "methods/measure/size.py",
        "torch 2.13.0, AVX2",
        "wins (",
    ):
        assert part in said, part


def test_a_heading_and_a_unique_variant_are_enough(table):
    assert explain(table, "b", "P") == explain(table, "one/b", "ppl").replace(
        "one/b, ppl", "b, ppl"
    )


def test_wrong_names_get_the_nearest(table):
    with pytest.raises(RetrofitError, match="several settings; say which: one/a, two/a"):
        explain(table, "a", "ppl")
    with pytest.raises(RetrofitError, match="no row 'on/a'; did you mean 'one/a'"):
        explain(table, "on/a", "ppl")
    with pytest.raises(RetrofitError, match="no column 'pppl'; did you mean 'ppl'"):
        explain(table, "b", "pppl")

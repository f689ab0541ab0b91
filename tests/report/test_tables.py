import csv
import io
import json

import pytest

from methods.report.document import document, text
from methods.report.markdown import study_page, table_csv
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

COLUMNS = [
    {"metric": "ppl", "label": "perplexity", "digits": 2},
    {"metric": "ppl", "relative_to": "dense", "digits": 2},
    {"paper": "Llama-7B", "source": "Table 4", "values": {"a": 5.6, "dense": "5.47"}},
]


def built(workbench, columns=COLUMNS, **table):
    workbench.study["tables"] = {"main": {"title": "Quality", "columns": columns, **table}}
    return document(workbench.cells(), {})


@pytest.fixture
def three(workbench):
    workbench.study["variants"] = {"dense": {"control": True, "label": "Dense"}}
    workbench.measured("dense", {"ppl": [10.0]}, deterministic=True)
    workbench.measured("a", {"ppl": [11.0, 12.0, 13.0]})
    return workbench.measured("b", {"ppl": [20.0]})


def test_cells_carry_intervals_and_paired_differences(three):
    rows = built(three)["tables"]["main"]["rows"]
    assert [row["label"] for row in rows] == ["Dense", "a", "b"]
    texts = [[cell["text"] for cell in row["cells"]] for row in rows]
    assert texts == [
        ["10.00", "–", "5.47"],
        ["12.00 ± 2.48", "+2.00 ± 2.48", "5.6"],
        ["20.00", "+10.00", "–"],
    ]
    assert [(row["n"], row["deterministic"]) for row in rows] == [(1, True), (3, False), (1, False)]


def test_markdown_reads_as_a_table(three):
    page = study_page(built(three, notes={"b": "a footnote"}))
    assert "| *Dense* | 10.00 | – | 5.47 | 1 † |" in page
    assert "| a | 12.00 ± 2.48 | +2.00 ± 2.48 | 5.6 | 3 |" in page
    assert "| b<sup>1</sup> | 20.00 | +10.00 | – | 1 |" in page
    assert "<sup>1</sup> a footnote" in page
    assert "Llama-7B: Table 4" in page
    assert "torch 2.13.0, AVX2, cpu, threads: 1" in page


def test_figures_from_memory_are_marked(three):
    columns = [COLUMNS[0], {**COLUMNS[2], "from_memory": True}]
    page = study_page(built(three, columns))
    assert "Llama-7B ¶" in page
    assert "¶ from memory" in page


def test_csv_is_tidy_and_exact(three):
    rows = list(csv.DictReader(io.StringIO(table_csv(built(three)))))
    row = next(r for r in rows if r["variant"] == "a" and r["relative_to"] == "dense")
    assert float(row["value"]) == 2.0
    assert row["n"] == "3"
    assert next(r for r in rows if r["kind"] == "paper")["value"] == "5.47"


def test_json_holds_values_runs_and_code(three):
    found = json.loads(text(built(three)))
    cell = next(c for c in found["cells"] if c["variant"] == "a")
    metric = cell["metrics"]["ppl"]
    assert metric["values"] == [11.0, 12.0, 13.0]
    run = found["runs"][metric["runs"][2]]
    assert run["instruction_set"] == "AVX2"
    assert run["upstream"]["model"] == cell["planned"][2]["chain"][0]
    assert found["code"][run["code"]]["files"]


def test_settings_become_rows_or_columns(workbench):
    for setting in ("one", "two"):
        workbench.measured("a", {"ppl": [1.0]}, setting=setting)
        workbench.measured("b", {"ppl": [2.0]}, setting=setting)
    workbench.study["settings"] = {"one": {"label": "First"}}
    rows = built(workbench, [{"metric": "ppl"}])["tables"]["main"]
    assert rows["by_setting"]
    assert [(r["setting_label"], r["variant"]) for r in rows["rows"]][:3] == [
        ("First", "a"),
        ("First", "b"),
        ("two", "a"),
    ]
    columns = [{"metric": "ppl", "setting": name, "digits": 0} for name in ("one", "two")]
    table = built(workbench, columns)["tables"]["main"]
    assert not table["by_setting"]
    assert [[c["text"] for c in r["cells"]] for r in table["rows"]] == [["1", "1"], ["2", "2"]]


def test_interval_over_units_is_marked(workbench):
    workbench.measured("a", {"ppl": [Metric(10.0, stderr=0.5, n=5)], "nll": [1.0]})
    columns = [{"metric": "ppl", "over": "units", "digits": 1}, {"metric": "nll", "digits": 1}]
    page = study_page(built(workbench, columns))
    assert "| a | 10.0 ± 1.4 ‡ | 1.0 | 1 |" in page
    assert "over n seeds." in page
    assert "‡ interval over test units" in page


def test_a_table_over_units_only_counts_units(workbench):
    for name, shift in (("a", 0.0), ("b", 1.0)):
        values = [1.0 + shift, 2.0 + shift, 3.0 + 2 * shift]
        labels = ["x", "y", "z"]
        metric = Metric(sum(values) / 3, stderr=0.5, n=3, values=values, labels=labels)
        workbench.measured(name, {"ppl": [metric]})
    columns = [
        {"metric": "ppl", "over": "units", "digits": 1},
        {"metric": "ppl", "over": "units", "digits": 2, "relative_to": "a"},
    ]
    page = study_page(built(workbench, columns))
    assert (
        "over n units (windows, replicates, splits). Differences are paired unit by unit." in page
    )
    # differences 1, 1, 2: mean 4/3, half-width 4.3027 * 0.57735 / sqrt(3)
    assert "+1.33 ± 1.43 | 3 |" in page
    assert "‡" not in page


def test_a_small_tier_leaves_out_tables_that_it_cannot_fill(workbench):
    workbench.measured("a", {"ppl": [10.0, 11.0]})
    column = {"metric": "ppl", "digits": 1}
    workbench.study["tables"] = {
        "kept": {"title": "Kept", "rows": ["a", "!b*"], "columns": [column]},
        "gone": {"title": "Gone", "rows": ["a", "other-*"], "columns": [column]},
    }
    workbench.tier = "quick"
    found = document(workbench.cells(), {})
    assert list(found["tables"]) == ["kept"]
    assert "Tables that tier quick leaves out: Gone." in study_page(found)


def test_a_study_without_tables_gets_one_of_everything(three):
    three.study.pop("tables", None)
    (table,) = document(three.cells(), {})["tables"].values()
    assert [c["metric"] for c in table["columns"]] == ["ppl"]


def test_tiny_and_huge_values_do_not_vanish(workbench):
    workbench.measured("a", {"ppl": [0.00001234]}).measured("b", {"ppl": [5e11]})
    rows = built(workbench, [{"metric": "ppl", "digits": 2}])["tables"]["main"]["rows"]
    assert [row["cells"][0]["text"] for row in rows] == ["1.23×10⁻⁵", "5.00×10¹¹"]


def test_unknown_names_are_errors_with_a_guess(three):
    with pytest.raises(RetrofitError, match=r"tables.main.columns: no run measured 'pplx'.*'ppl'"):
        built(three, [{"metric": "pplx"}])
    three.tier = "quick"  # leaves nothing out
    with pytest.raises(RetrofitError, match="no run measured 'pplx'"):
        built(three, [{"metric": "pplx"}])


def test_bytes_do_not_depend_on_the_order_of_runs(three, new_workbench):
    page, data = study_page(built(three)), text(built(three))
    from methods.report.cells import gather

    three.study["tables"] = {"main": {"title": "Quality", "columns": COLUMNS}}
    other = gather(three.plan([4, 2, 0, 3, 1]), three.results)
    assert study_page(document(other, {})) == page
    assert text(document(other, {})) == data


def test_markup_in_a_study_is_text(three):
    three.study["title"] = "<script>alert(1)</script>"
    page = study_page(built(three, caption="a <b> | c"))
    assert "<script>" not in page
    assert "2020-01-01" not in page


def test_a_tier_leaves_out_columns_and_tables_that_it_does_not_measure(three):
    three.tier = "quick"
    three.study["tiers"] = {"quick": {"only": ["dense", "a"]}}
    three.study["tables"] = {
        "main": {"title": "Quality", "columns": [*COLUMNS, {"metric": "size"}]},
        "gone": {"title": "Gone", "rows": ["nothing-*"], "columns": COLUMNS},
    }
    found = document(three.cells(), {})
    assert list(found["tables"]) == ["main"]
    assert found["tables"]["main"]["missing"] == ["size"]
    assert "Not measured here: size." in study_page(found)


def test_the_papers_figures_keep_its_decimals(three):
    columns = [COLUMNS[0], {**COLUMNS[2], "values": {"a": 5.6, "b": 5.47}}]
    rows = built(three, columns)["tables"]["main"]["rows"]
    assert [row["cells"][1]["text"] for row in rows] == ["–", "5.60", "5.47"]

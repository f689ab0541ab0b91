import pandas
import pytest

from methods.report import document, frame
from methods.report.command import write_report, write_tables


@pytest.fixture
def documents(workbench, tmp_path):
    workbench.study |= {"tables": {"main": {"title": "t", "columns": [{"metric": "ppl"}]}}}
    workbench.measured("a", {"ppl": [9.0, 9.5]}, params={"bits": 4, "clip": {"enabled": True}})
    workbench.measured("b", {"ppl": [7.0]}, params={"bits": 8, "deep": True}, deterministic=True)
    tables = write_tables(workbench.plan(), workbench.results, tmp_path / "out")
    write_report(tables[:1], tmp_path / "out")
    return [document.read(tables[0])], tmp_path / "out"


def test_one_row_for_each_metric_of_each_cell_and_seed(documents):
    table = frame.frame(documents[0])
    rows = table[["variant", "seed", "metric", "value"]].values.tolist()
    assert rows == [["a", 0, "ppl", 9.0], ["a", 1, "ppl", 9.5], ["b", 0, "ppl", 7.0]]
    assert table["study"].unique().tolist() == ["demo"]
    # a step and an evaluation of 1.25 s each
    assert table["cpu_seconds"].tolist() == [2.5] * 3


def test_settings_are_columns_of_one_type(documents):
    table = frame.frame(documents[0]).set_index(["variant", "seed"])
    assert table.loc[("a", 0), "a.bits"] == 4.0
    assert table["b.bits"].isna().tolist() == [True, True, False]
    assert table.loc[("a", 1), "a.clip"] == '{"enabled": true}'
    assert table["b.deep"].dtype == "boolean"


def test_the_report_leaves_it_for_pandas(documents):
    read = pandas.read_parquet(documents[1] / frame.FILE)
    pandas.testing.assert_frame_equal(read, frame.frame(documents[0]))

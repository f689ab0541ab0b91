import pytest

from methods.report.document import document, text
from methods.report.staleness import stale


@pytest.fixture
def committed(workbench, tmp_path):
    workbench.measured("a", {"ppl": [1.0, 2.0]}, params={"grid": 20})
    workbench.study["tables"] = {"main": {"title": "T", "columns": [{"metric": "ppl"}]}}
    path = tmp_path / "demo.json"
    path.write_text(text(document(workbench.cells(), {})))
    return path


def planned(new_workbench, params=None, **options):
    bench = new_workbench("other", **options)
    bench.study["tables"] = {"main": {"title": "T", "columns": [{"metric": "ppl"}]}}
    return bench.measured("a", {"ppl": [1.0, 2.0]}, params=params or {"grid": 20})


def test_current_is_empty(committed, new_workbench):
    assert stale(committed, planned(new_workbench).plan()) == []


def test_a_setting_that_moved_is_named_once(committed, new_workbench):
    found = stale(committed, planned(new_workbench, {"grid": 10}).plan())
    assert [str(one) for one in found] == [
        "specification moved: a, seed 0: a: params.grid: 20 → 10"
    ]


def test_only_code_moved(committed, new_workbench):
    found = stale(committed, planned(new_workbench, code="beef" * 4).plan())
    assert {one.what for one in found} == {"code"}
    assert "c0dec0dec0dec0de → beefbeefbeefbeef" in str(found[0])


def test_data_moved(committed, new_workbench):
    bench = planned(new_workbench)
    for cell in bench.made:
        data = cell.result.upstream["data:text"]
        data.spec["content"] = "d1"
        data.__post_init__()
        cell.result.__post_init__()
        cell.evaluations[0].__post_init__()
    found = stale(committed, bench.plan())
    assert [str(one) for one in found] == ["data moved: a, seed 0: text: content: d0 → d1"]


def test_seeds_and_variants_that_came_or_went(committed, new_workbench):
    bench = planned(new_workbench)
    bench.measured("b", {"ppl": [1.0]})
    bench.made = bench.made[1:]
    details = [one.detail for one in stale(committed, bench.plan())]
    assert any("a is in the table and no longer in the study" in detail for detail in details)
    assert any("b is in the study and not in the table" in detail for detail in details)


def test_wording_that_moved_needs_no_run(committed, new_workbench):
    bench = planned(new_workbench)
    bench.study["tables"]["main"]["caption"] = "new words"
    (found,) = stale(committed, bench.plan())
    assert (found.what, found.detail) == ("report", "tables.main is changed")

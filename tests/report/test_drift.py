import json

import pytest

from methods.report.drift import compare
from methods.run.metrics import Metric


def table(workbench, path, columns=None):
    from methods.report.document import document, text

    workbench.study["tables"] = {
        "main": {"title": "T", "columns": columns or [{"metric": "ppl"}]},
    }
    path.write_text(text(document(workbench.cells(), {})))
    return path


@pytest.fixture
def pair(new_workbench, tmp_path):
    """Two tables of a study with one variant; `options` go to both, `shift` moves the new value."""

    def make(shift=0.0, other_machine=True, columns=None, old=None, new=None, **options):
        made = []
        for name, values in (("old", old or [10.0]), ("new", new or [10.0 + shift])):
            bench = new_workbench(name)
            if name == "new" and other_machine:
                bench.machine["instruction_set"] = "AVX512"
            bench.measured("a", {"ppl": values}, **options)
            made.append(table(bench, tmp_path / f"{name}.json", columns))
        return made

    return make


def test_equal_bits_pass(pair):
    outcome = compare(*pair())
    assert outcome.passed
    assert outcome.exact == 1
    assert "1 equal" in outcome.markdown


def test_any_move_fails_on_the_same_machine(pair):
    outcome = compare(*pair(1e-12, other_machine=False))
    assert not outcome.passed
    assert "| a · ppl | 10.0 | 10.000000000001 | exactly equal (same" in outcome.markdown


def test_elsewhere_one_per_cent_is_allowed(pair):
    outcome = compare(*pair(0.09))
    assert outcome.passed
    assert len(outcome.within) == 1
    assert not compare(*pair(0.11)).passed


def test_elsewhere_two_combined_standard_errors_are_allowed(pair):
    old, new = [Metric(10.0, stderr=0.3, n=9)], [Metric(10.8, stderr=0.3, n=9)]
    assert compare(*pair(old=old, new=new)).passed  # 2 · sqrt(0.18) = 0.849
    new = [Metric(10.9, stderr=0.3, n=9)]
    assert not compare(*pair(old=old, new=new)).passed


def test_a_columns_tolerance_replaces_the_default(pair):
    columns = [{"metric": "ppl", "tolerance": 0.05}]
    assert compare(*pair(0.04, columns=columns)).passed
    assert not compare(*pair(0.06, columns=columns)).passed


def test_exact_can_be_demanded_anywhere(pair):
    assert not compare(*pair(1e-9), exact=True).passed


def test_seeds_that_cancel_in_the_mean_are_a_move(pair):
    outcome = compare(*pair(old=[1.0, 3.0], new=[3.0, 1.0], other_machine=False))
    assert not outcome.passed


def test_missing_extra_and_nan_cells_fail(pair, tmp_path):
    old, new = pair()
    found = json.loads(new.read_text())
    cell = found["cells"][0]["metrics"]
    cell["extra"] = cell["ppl"]
    new.write_text(json.dumps(found))
    assert "| a · extra | not expected | 10.0000 | absent |" in compare(old, new).markdown
    del cell["extra"], cell["ppl"]
    new.write_text(json.dumps(found))
    assert "| a · ppl | 10.0000 | missing | present |" in compare(old, new).markdown
    cell["ppl"] = {
        **json.loads(old.read_text())["cells"][0]["metrics"]["ppl"],
        "value": float("nan"),
    }
    new.write_text(json.dumps(found))
    assert not compare(old, new).passed


def test_wall_clock_is_skipped_and_said_so(pair):
    old, new = [Metric(10.0, unit="ms/token")], [Metric(99.0, unit="ms/token")]
    outcome = compare(*pair(old=old, new=new, other_machine=False))
    assert outcome.passed
    assert "Not compared: a · ppl." in outcome.markdown


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        ("reproduced", "not reproduced", False),
        ("reproduced", "partly", True),
        ("not reproduced", "reproduced", True),
        ("reproduced", None, False),
    ],
)
def test_a_claim_may_move_but_not_fall(pair, before, after, passed):
    old, new = pair()
    for path, verdict in ((old, before), (new, after)):
        found = json.loads(path.read_text())
        found["claims"] = {"it": {"verdict": verdict}} if verdict else {}
        path.write_text(json.dumps(found))
    outcome = compare(old, new)
    assert outcome.passed is passed
    assert f"it: {before} → {after or 'missing'}" in outcome.markdown
    assert not compare(old, new, exact=True).passed

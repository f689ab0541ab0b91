"""Expansion of a study over toy methods into keyed runs."""

import pytest

from methods.study import expansion, registry
from methods.study.errors import SpecError
from methods.study.expansion import plan

STUDY = """
study: toy
title: A toy
variants:
  start: [{method: begin, size: 1}]
  "w{bits}":
    for: {bits: [2, 3]}
    steps: [{method: begin, size: 1}, {method: go-on, bits: "{bits}"}]
measure: [{measure: height}]
seeds: 2
tiers:
  quick: {seeds: 1, only: ["w*"], methods: {begin: {size: 9}}}
"""


@pytest.fixture(autouse=True)
def toy_methods(monkeypatch):
    from typing import ClassVar, Literal

    registry.entries("method")
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))

    @registry.register("methods.study.keys:digest")
    class Begin(registry.MethodParams):
        needs_base: ClassVar[bool] = False
        method: Literal["begin"] = "begin"
        size: int = 1

    @registry.register("methods.study.keys:digest")
    class GoOn(registry.MethodParams):
        stochastic: ClassVar[bool] = False
        method: Literal["go-on"] = "go-on"
        bits: Literal[2, 3, 4] = 4

    @registry.register("methods.study.keys:digest")
    class Finish(registry.MethodParams):
        follows: ClassVar[tuple[str, ...]] = ("go-on", "finish")
        method: Literal["finish"] = "finish"

    @registry.register("methods.study.keys:digest")
    class Height(registry.MeasureParams):
        measure: Literal["height"] = "height"

    @registry.register("methods.study.keys:digest")
    class Reader(registry.MethodParams):
        needs_base: ClassVar[bool] = False
        roles: ClassVar[tuple[str, ...]] = ("train",)
        method: Literal["reader"] = "reader"

    caches = (
        registry.entries,
        expansion.find.__globals__["entries"],
        __import__("methods.study.specification", fromlist=["x"]).study_type,
    )
    for cached in caches:
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in caches:
        cached.cache_clear()


def write(tmp_path, text):
    path = tmp_path / "toy.yaml"
    path.write_text(text)
    return path


def keys(tmp_path, text, tier="full"):
    return set(plan(write(tmp_path, text), tier).runs())


def test_chains_share_their_prefix_and_seeds_their_own_runs(tmp_path):
    made = plan(write(tmp_path, STUDY), "full")
    kinds = [run.kind for run in made.runs().values()]
    # 2 starts, 2 seeds x 2 bits of second steps, and one evaluation of each of the six results
    assert kinds.count("method") == 6
    assert kinds.count("evaluate") == 6
    first = {cell.chain[0].name for cell in made.cells}
    assert len(first) == 2
    assert {cell.variant for cell in made.cells} == {"start", "w2", "w3"}


def test_upstream_comes_first(tmp_path):
    names = list(plan(write(tmp_path, STUDY), "full").runs())
    runs = plan(write(tmp_path, STUDY), "full").runs()
    for name, run in runs.items():
        assert all(names.index(up.name) < names.index(name) for up in run.upstream.values())


def test_a_tier_is_a_small_set_of_overrides(tmp_path):
    made = plan(write(tmp_path, STUDY), "quick")
    assert {cell.variant for cell in made.cells} == {"w2", "w3"}
    assert {
        run.spec["params"]["size"] for run in made.runs().values() if "size" in run.spec["params"]
    } == {9}


def test_keys_do_not_depend_on_how_the_file_is_written(tmp_path):
    reordered = STUDY.replace("title: A toy\n", "").replace(
        "seeds: 2", "seeds: 2\ntitle: Another title"
    )
    assert keys(tmp_path, STUDY) == keys(tmp_path, reordered)
    assert keys(tmp_path, STUDY) == keys(tmp_path, STUDY.replace("begin, size: 1", "begin"))


@pytest.mark.parametrize(
    "old_new", [("size: 1", "size: 2"), ("[2, 3]", "[2, 4]"), ("seeds: 2", "seeds: 3")]
)
def test_each_single_change_changes_keys(tmp_path, old_new):
    assert keys(tmp_path, STUDY) != keys(tmp_path, STUDY.replace(*old_new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("method: go-on", "method: goon", "there is no method 'goon'; did you mean 'go-on'?"),
        ("bits: [2, 3]", "bits: [2, 5]", "5 is not allowed; allowed: 2, 3, 4"),
        ('bits: "{bits}"', 'bits: "{bit}"', "'{bit}' is no axis of `for`; did you mean 'bits'?"),
        ('"w{bits}":', '"w":', "name must contain {bits}"),
        (
            "{begin: {size: 9}}",
            "{begni: {size: 9}}",
            "no step of this study uses 'begni'; did you mean 'begin'?",
        ),
        (
            "{begin: {size: 9}}",
            "{begin: {sise: 9}}",
            "unknown key 'sise' of begin; did you mean 'size'?",
        ),
        ("measure: height", "measure: hight", "there is no measure 'hight'"),
        ("start: [{method: begin, size: 1}]", "start: []", "no steps and no base model"),
        ("start: [{method: begin, size: 1}]", "start: [{method: go-on}]", "there is no `base`"),
        (
            "start: [{method: begin, size: 1}]",
            "start: [{method: reader}]",
            "reads the data role 'train'",
        ),
        ("title: A toy", "title: A toy\nbase: nothing-such", "there is no model 'nothing-such'"),
        (
            "title: A toy",
            "title: A toy\nbase: {path: /no/such}",
            "the directory /no/such does not exist",
        ),
        ("size: 1}", "size: yes}", "toy.yaml:5"),
    ],
)
def test_mistakes_name_the_place_and_what_is_allowed(tmp_path, old, new, message):
    with pytest.raises(SpecError) as error:
        plan(
            write(tmp_path, STUDY.replace(old, new)),
            "quick" if "begni" in new or "sise" in new else "full",
        )
    assert message in str(error.value)
    assert "toy.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("wikipedia.trian", "no split 'trian'; did you mean 'train'?"),
        ("wikipeda.train", "no data set 'wikipeda'; did you mean 'wikipedia'?"),
    ],
)
def test_a_misspelt_data_set_or_split_is_refused_when_planning(tmp_path, reference, message):
    steps = "[{method: reader}, {method: go-on}]"
    text = STUDY.replace("title: A toy", f"title: A toy\ndata: {{train: {reference}}}")
    text = text.replace("[{method: begin, size: 1}]", steps).replace(
        "methods: {begin: {size: 9}}", ""
    )
    with pytest.raises(SpecError) as error:
        plan(write(tmp_path, text), "full")
    assert message in str(error.value)
    assert "toy.yaml" in str(error.value)


def test_steps_in_an_order_that_cannot_work_are_refused_when_planning(tmp_path):
    begin, go_on, finish = "{method: begin}", "{method: go-on}", "{method: finish}"
    text = "study: toy\ntitle: A toy\nvariants: {it: [%s]}\nmeasure: [{measure: height}]\n"
    for chain in ([begin, go_on, finish], [begin, go_on, finish, finish]):
        plan(write(tmp_path, text % ", ".join(chain)))
    message = r"variant it: finish follows go-on or finish, and here it follows begin"
    with pytest.raises(SpecError, match=message):
        plan(write(tmp_path, text % ", ".join([begin, finish])))


def test_a_gpu_is_part_of_the_key_only_where_one_is_asked_for(tmp_path):
    def runs(text):
        path = tmp_path / "toy.yaml"
        path.write_text(text)
        return {run.slug: run for run in plan(path, "full").runs().values() if run.kind == "method"}

    cpu, none = runs(STUDY)["begin"], runs(STUDY.replace("size: 1}", "size: 1, gpus: 0}"))["begin"]
    gpu = runs(STUDY.replace("size: 1}", "size: 1, gpus: 1}"))["begin"]
    assert cpu.key == none.key != gpu.key
    assert "gpus" not in cpu.spec["params"]
    assert gpu.spec["params"]["gpus"] == 1

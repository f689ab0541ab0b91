"""GLUE and SuperGLUE in the layout that they are published in."""

import json

import pytest

from methods.data import spec
from methods.data.builders import glue

COLA = 'gj04\t1\t\tThe "man" left.\ngj04\t0\t*\tThe man the left.\n'
TSV = 'index\tsentence1\tsentence2\tlabel\n0\tA "b\tC.\tentailment\n1\tD\tE\tnot_entailment\n'


def built(task, train, validation=None):
    files = {"train": train.encode(), "validation": (validation or train).encode()}
    return glue.build(files, glue.Options(name="glue", task=task))


def said(split):
    return [(t, split.classes[k]) for t, k in zip(split.documents, split.y, strict=True)]


def test_cola_has_no_header_and_quotation_marks_are_text():
    assert said(built("cola", COLA)["train"]) == [
        ('sentence: The "man" left.', "yes"),
        ("sentence: The man the left.", "no"),
    ]


def test_fields_are_named():
    assert said(built("rte", TSV)["train"])[0] == ('sentence1: A "b sentence2: C.', "yes")


def test_the_official_validation_set_of_a_small_task_is_halved():
    rows = "".join(f"x\t{n % 2}\t\tsentence {n}\n" for n in range(9))
    splits = built("cola", COLA, rows)
    assert list(splits) == ["train", "validation", "test"]
    halves = [splits[name].documents for name in ("validation", "test")]
    assert [len(half) for half in halves] == [4, 5]
    assert sorted(halves[0] + halves[1]) == [f"sentence: sentence {n}" for n in range(9)]
    large = built("sst2", "sentence\tlabel\ngood\t1\nbad\t0\n")
    assert list(large) == ["train", "test"]


def test_mnli_without_agreement_is_left_out():
    rows = "sentence1\tsentence2\tgold_label\na\tb\tneutral\nc\td\t-\n"
    assert said(built("mnli", rows)["test"]) == [("premise: a hypothesis: b", "maybe")]


def test_superglue_is_json():
    boolq = json.dumps({"question": "is it", "passage": "It is.", "label": True})
    twice = f"{boolq}\n{boolq}\n"
    assert said(built("boolq", twice)["train"])[0] == ("question: is it passage: It is.", "yes")
    target = {"span1_text": "the cat", "span1_index": 0, "span2_text": "it", "span2_index": 3}
    wsc = json.dumps({"text": "the cat sat it purred", "target": target, "label": False})
    assert said(built("wsc", f"{wsc}\n{wsc}\n")["train"])[0] == (
        "text: * the cat * sat # it # purred",
        "no",
    )
    answers = [{"text": "one", "label": 1}, {"text": "two", "label": 0}]
    passage = {"text": "P.", "questions": [{"question": "Q?", "answers": answers}]}
    multirc = json.dumps({"passage": passage})
    assert said(built("multirc", multirc)["train"]) == [
        ("question: Q? answer: one paragraph: P.", "yes"),
        ("question: Q? answer: two paragraph: P.", "no"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence1\tlabel\na\tentailment\n", "example 1 of rte has no 'sentence2'"),
        (TSV.replace("not_entailment", "perhaps"), "example 2 of rte has the label 'perhaps'"),
    ],
)
def test_files_of_another_form_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        built("rte", text)


def test_every_task_is_declared():
    declared = [name for name in spec.declared(spec.Path("data")) if "glue-" in name]
    tasks = {spec.find(name).builder["task"] for name in declared}
    assert tasks == set(glue.FORMS)

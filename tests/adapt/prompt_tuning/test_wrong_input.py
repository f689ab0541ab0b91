"""Every wrong input gets one error that names it."""

import dataclasses

import numpy as np
import pytest
from pydantic import ValidationError

from methods.adapt.prompt_tuning.apply import apply
from methods.adapt.prompt_tuning.params import Dept, Ept, PromptTuning, TextLora, TextProbe
from methods.data.kinds import Text
from methods.models.language import LanguageModel
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.adapt.prompt_tuning.toys import causal, data, task
from tests.models.tiny import tiny_model
from tests.models.tiny_encoder import tiny_encoder

COMMON = {"length": 10, "batch": 8, "steps": 2, "warm_up": 0}


def refused(message, params, given=None, base=None):
    with pytest.raises(RetrofitError, match=message):
        apply(base or tiny_encoder(), given or data(), params, Context())


def test_a_prompt_longer_than_the_context():
    params = PromptTuning(**COMMON, tokens=15)
    refused("prompt of 15 tokens and a text of 10 exceed the model's context of 24", params)
    with pytest.raises(RetrofitError, match="context of 20"):
        params.check_base({"max_position_embeddings": 20})
    params.check_base({"max_position_embeddings": 25})
    params.check_base({"model_type": "t5"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "the class 'negative' has no word"),
        ({"negative": "bad"}, "the class 'positive' has no word"),
        ({"negative": "bad", "positve": "good"}, "no class 'positve'.*positive"),
        ({"negative": "bad", "positive": "very good"}, r"'very good' is 2 tokens \(very good\)"),
        ({"negative": "bad", "positive": "bad"}, "'negative' and 'positive' have the same token"),
    ],
)
def test_verbalizers_that_do_not_fit(words, message):
    params = TextProbe(**COMMON, words={"reviews": words})
    refused(f"words.reviews.*{message}", params, base=causal())


def test_a_task_with_one_class():
    one = task()
    one = dataclasses.replace(one, y=np.ones_like(one.y))
    refused(
        r"'reviews' has one class \(positive\)",
        TextProbe(**COMMON),
        {"train": [one], "test": data()["test"]},
    )


def test_an_unknown_layer_to_adapt():
    refused("no linear layer 'qeury'.*query", TextLora(**COMMON, targets=["qeury"]))


def test_data_that_are_no_tasks():
    probe = TextProbe(**COMMON)
    given = data()
    refused("there is no task", probe, {"train": [], "test": []})
    text = Text("wikipedia.train", ["a"], ["b"])
    refused("wikipedia.train is Text, not labelled text", probe, {**given, "train": [text]})
    refused("'reviews' stands twice", probe, {**given, "train": given["train"] * 2})
    refused("'other' has no test split", probe, {**given, "train": [task("other")]})
    changed = dataclasses.replace(given["test"][0], classes=["negative", "other"])
    refused("do not have the same classes", probe, {**given, "test": [changed]})
    refused("has 32 training texts", TextProbe(**COMMON, validation=32))


def test_bases_that_cannot_be_tuned():
    probe = TextProbe(**COMMON)
    with pytest.raises(RetrofitError, match="needs a base model"):
        apply(None, data(), probe, Context())
    refused("has no tokenizer", probe, base=LanguageModel(tiny_model("llama")))
    quantised = dataclasses.replace(causal(), quantized={"x": None})
    refused("is quantised", probe, base=quantised)


def test_adapters_go_with_their_kind_of_base_and_their_tasks():
    made = apply(tiny_encoder(), data("first", "second"), TextProbe(**COMMON), Context())
    with pytest.raises(RetrofitError, match="for a encoder model, and this one is causal"):
        made.classifier(causal(), "first")
    with pytest.raises(RetrofitError, match=r"no adapter for 'frist'.*first"):
        made.classifier(tiny_encoder(), "frist")
    with pytest.raises(RetrofitError, match=r"no adapter for 'None'.*first"):
        made.classifier(tiny_encoder())


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (Dept, {"tokens": 101}, "budget of 100 does not pay for 101"),
        (Ept, {"warm_up": 2}, "must be less than steps"),
        (Ept, {"evaluations": 1}, "need `validation`"),
        (Ept, {"validation": 4, "evaluations": 3}, "3 evaluations in 2 steps"),
        (Dept, {"spaces": 4}, "spaces"),
        (Ept, {"fusion": "cross"}, "fusion"),
    ],
)
def test_contradictions_are_refused_when_planning(kind, changes, message):
    with pytest.raises(ValidationError, match=message):
        kind.model_validate({**COMMON, **changes})

"""Encoders as bases and artifacts: the same bits back, other kinds refused, texts tokenised once."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from methods.models import encoder
from methods.models.params import ModelDeclaration
from methods.run.context import Context
from methods.study import strict_yaml
from methods.study.errors import RetrofitError, SpecError
from methods.study.expansion import plan
from tests.models.tiny import tiny_model
from tests.models.tiny_encoder import CONTEXT, tiny_encoder, tiny_seq2seq

DECLARED = Path(__file__).parents[2] / "configs" / "models" / "minilm.yaml"
TEXTS = ["the film is good", "a very bad plot", "not poor", "the the the book was fine"]


def features(model, batch):
    with torch.no_grad():
        return model(**batch).last_hidden_state


def test_an_encoder_comes_back_to_the_same_bits(tmp_path):
    made = tiny_encoder()
    made.notes["method"] = {"steps": 3}
    made.save(tmp_path)
    again = encoder.load(tmp_path)
    assert again.kind == "encoder"
    assert again.notes == made.notes
    batch = encoder.tokenise(made.tokenizer, TEXTS, 12).batch(torch.arange(4))
    theirs = encoder.tokenise(again.tokenizer, TEXTS, 12).batch(torch.arange(4))
    assert torch.equal(batch["input_ids"], theirs["input_ids"])
    assert torch.equal(features(made.model, batch), features(again.model, batch))
    assert not any(p.requires_grad for p in again.model.parameters())


def test_a_directory_of_ones_own_is_a_base_by_its_kind(tmp_path):
    tiny_seq2seq().save(tmp_path)
    spec = {"path": str(tmp_path), "kind": "seq2seq"}
    assert encoder.base(spec, Context()).model.config.model_type == "t5"


def test_other_architectures_are_refused(tmp_path):
    tiny_model("opt").save_pretrained(tmp_path / "opt")
    with pytest.raises(RetrofitError, match="'opt' is no seq2seq model"):
        encoder.read(tmp_path / "opt", "seq2seq")
    with pytest.raises(RetrofitError, match=r"no kind 'encodr' of model.*encoder"):
        encoder.read(tmp_path / "opt", "encodr")
    with pytest.raises(RetrofitError, match="does not exist"):
        encoder.read(tmp_path / "nowhere", "encoder")


def test_missing_weights_are_no_random_weights(tmp_path):
    tiny_encoder(num_hidden_layers=1).save(tmp_path / "one")
    tiny_encoder(num_hidden_layers=2).save(tmp_path / "two")
    (tmp_path / "one" / "config.json").write_bytes((tmp_path / "two" / "config.json").read_bytes())
    with pytest.raises(RetrofitError, match=r"missing keys: encoder\.layer\.1"):
        encoder.read(tmp_path / "one", "encoder")


def test_padding_moves_no_feature():
    model = tiny_encoder()
    tokens = encoder.tokenise(model.tokenizer, TEXTS, 12)
    rows = torch.tensor([2, 0])
    short, long = tokens.batch(rows), tokens.batch(rows, length=11)
    assert short["input_ids"].shape == (2, 6)
    assert long["input_ids"].shape == (2, 11)
    means = [
        encoder.mean_of_tokens(features(model.model, batch), batch["attention_mask"])
        for batch in (short, long)
    ]
    torch.testing.assert_close(*means)


def test_pairs_have_types_and_both_are_kept_when_cut():
    model = tiny_encoder()
    pair = ["the the the the the the the the the"], ["good film"]
    batch = encoder.tokenise(model.tokenizer, pair[0], 8, pair[1]).batch(torch.arange(1))
    assert batch["input_ids"].shape == (1, 8)
    assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_the_mean_is_over_kept_tokens():
    x = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]])
    assert encoder.mean_of_tokens(x, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize(("length", "message"), [(2, "no room"), (CONTEXT + 1, "exceeds")])
def test_lengths_that_cannot_be_are_refused(length, message):
    with pytest.raises(RetrofitError, match=message):
        encoder.tokenise(tiny_encoder().tokenizer, TEXTS, length)


def test_minilm_is_declared_as_an_encoder():
    declared = ModelDeclaration.model_validate(strict_yaml.load(DECLARED).value)
    assert declared.kind == "encoder"
    assert declared.config["hidden_size"] == 384
    with pytest.raises(ValidationError, match="goes with layout directory"):
        ModelDeclaration.model_validate({**strict_yaml.load(DECLARED).value, "layout": "gguf"})


STUDY = """
study: s
title: s
base: {base}
data: {{train: [bbc-news.train], test: [bbc-news.test]}}
variants: {{a: [{{method: {method}, length: 16, steps: 2, warm_up: 0}}]}}
"""


def planned(tmp_path, base, method="text_probe"):
    path = tmp_path / "s.yaml"
    path.write_text(STUDY.format(base=base, method=method), "utf-8")
    return next(run for run in plan(path).runs().values() if run.kind == "base")


def test_a_base_is_imported_by_its_kind(tmp_path):
    assert planned(tmp_path, "minilm").implementation == "methods.models.encoder:base"
    causal = planned(tmp_path, "{huggingface: a/b}")
    assert causal.implementation == "methods.models.imports:base"
    assert causal.spec == {"huggingface": "a/b", "revision": "main"}
    seq2seq = planned(tmp_path, "{huggingface: a/b, kind: seq2seq}")
    assert seq2seq.implementation == "methods.models.encoder:base"
    assert seq2seq.spec["kind"] == "seq2seq"


def test_a_prompt_that_is_too_long_is_refused_when_planning(tmp_path):
    long = "prompt_tuning, tokens: 500"
    with pytest.raises(SpecError, match=r"a prompt of 500 tokens .* context of 512"):
        planned(tmp_path, "minilm", long)


def test_models_are_found_by_name():
    with pytest.raises(RetrofitError, match=r"no model 'minilmm'; .*minilm"):
        encoder.declared("minilmm")
    with pytest.raises(RetrofitError, match="'smollm2-135m' is a causal or vision model"):
        encoder.declared("smollm2-135m")

"""A study for a model and a text of one's own, written so that it runs as it is."""

from __future__ import annotations

import json

import pytest

from methods.data import spec
from methods.data.builders import plain_text
from methods.study.errors import RetrofitError
from methods.study.loading import load_study
from methods.verbs import new_study

PARAGRAPH = "The ship went on through the night, and nobody slept. " * 12


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    config = {
        "model_type": "mistral",
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "max_position_embeddings": 256,
    }
    (model / "config.json").write_text(json.dumps(config))
    (model / "model.safetensors").write_bytes(b"")  # looked for, never read
    (model / "tokenizer_config.json").write_text("{}")
    text = tmp_path / "log.txt"
    text.write_text("\n\n".join(PARAGRAPH for _ in range(60)))
    return tmp_path


def test_groups_windows_and_data_fit_the_model_and_the_text(place):
    study, _dataset = new_study.write("mine", model="model", text=place / "log.txt")
    found = load_study(study, "full")
    assert found.base.path == str(place / "model")
    assert found.variants["rtn-w4"].steps[0].group_size == 32
    assert found.data["calibration"][0].length == 256
    assert found.measure[0].window == 256
    assert found.data["eval"][0].set == "mine-text.test"
    assert spec.find("mine-text", place / "data").options.name == "plain-text"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nowhere"}, "no such directory, no name of configs/models"),
        ({"model": "/nowhere/at/all"}, "no such directory"),
        ({"text": "missing.txt"}, "no such file"),
    ],
)
def test_what_is_not_there_is_said(place, arguments, message):
    if "text" in arguments:
        arguments = {"text": place / arguments["text"]}
    with pytest.raises(RetrofitError, match=message):
        new_study.write("mine", **arguments)
    assert not (place / "configs").exists()


def drop(name):
    return lambda model: (model / name).unlink()


def pickled(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def retype(kind):
    def change(model):
        config = json.loads((model / "config.json").read_text()) | {"model_type": kind}
        (model / "config.json").write_text(json.dumps(config))

    return change


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop("config.json"), "has no config.json"),
        (drop("model.safetensors"), "has no weights"),
        (pickled, "pickled weights.*convert them once"),
        (drop("tokenizer_config.json"), r"has no tokenizer.*save_pretrained\("),
        (retype("mistrall"), "no causal language model of type 'mistrall'; did you mean 'mistral'"),
        (retype("vit"), "no causal language model of type 'vit'"),
    ],
)
def test_a_directory_that_cannot_be_loaded_is_refused_at_once(place, spoil, message):
    spoil(place / "model")
    with pytest.raises(RetrofitError, match=message):
        new_study.write("mine", model="model")
    assert not (place / "configs").exists()


def test_a_declared_model_gives_its_widths(tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    (models / "small.yaml").write_text(
        "layout: gguf\n"
        "config: {hidden_size: 640, intermediate_size: 2048, num_attention_heads: 4, head_dim: 256}\n"
    )
    (models / "eyes.yaml").write_text("layout: network\n")
    [study] = new_study.write("mine", model="small", configs=tmp_path)
    assert "group_size: 128" in study.read_text()
    with pytest.raises(RetrofitError, match="eyes is no language model"):
        new_study.write("yours", model="eyes", configs=tmp_path)


def test_a_text_too_short_for_windows_is_refused(place):
    (place / "short.txt").write_text("Two words.\n\nAnd two more.")
    with pytest.raises(RetrofitError, match="a study needs about"):
        new_study.write("mine", text=place / "short.txt")


def test_a_hub_id_is_taken_as_such(place):
    [study] = new_study.write("mine", model="some-org/some-model")
    assert "base: {huggingface: some-org/some-model}" in study.read_text()


def options(**changes):
    return plain_text.Options(name="plain-text", **changes)


def test_paragraphs_are_split_in_order_and_none_is_lost():
    parts = [f"{i} " + "x" * 50 for i in range(10)]
    made = plain_text.build({"text.txt": "\n\n".join(parts).encode()}, options())
    assert made["train"].documents + made["test"].documents == parts
    assert len(made["train"].documents) == 7


@pytest.mark.parametrize(
    ("body", "message"), [(b"one paragraph", "fewer than two"), (b"\xff\xfe\n\nx", "not UTF-8")]
)
def test_a_text_that_cannot_be_split_is_refused(body, message):
    with pytest.raises(ValueError, match=message):
        plain_text.build({"text.txt": body}, options())

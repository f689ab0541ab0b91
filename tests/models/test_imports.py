"""Base models: a GGUF becomes a plain exact model; hub and path errors say what is wrong."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from methods.models import gguf, language
from methods.models.imports import assemble, base, check_config, from_hub
from methods.models.language import LanguageModel
from methods.models.params import ModelDeclaration
from methods.run.context import Context
from methods.study import strict_yaml
from methods.study.errors import RetrofitError
from tests.models.tiny import tiny_model, tiny_tokens
from tests.models.tiny_gguf import randomise_norms, write_gguf

TOKENS = tiny_tokens(2, 16)
CONFIGS = Path(__file__).parents[2] / "configs" / "models"


@torch.no_grad()
def logits(model):
    return model(input_ids=TOKENS).logits


@pytest.fixture(scope="module")
def tiny():
    model = tiny_model("llama")
    randomise_norms(model)
    return model


@pytest.fixture(scope="module")
def gguf_file(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tiny)
    return path


def test_a_gguf_becomes_the_plain_model_it_was_made_of(tiny, gguf_file, tmp_path):
    read = gguf.read(gguf_file)
    assert torch.equal(logits(read.model), logits(tiny))
    read.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["tie_word_embeddings"]
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = language.load(tmp_path)
    assert torch.equal(logits(again.model), logits(tiny))
    text = "cab, a b!"
    assert again.tokenizer(text)["input_ids"] == read.tokenizer(text)["input_ids"]
    assert again.tokenizer.decode(again.tokenizer(text)["input_ids"]) == text
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert not {"is_local", "local_files_only"} & set(settings)


def test_a_gguf_in_parts_is_joined(tiny, gguf_file, tmp_path):
    whole = gguf_file.read_bytes()
    for index, part in enumerate((whole[:1000], whole[1000:])):
        (tmp_path / f"part{index}").write_bytes(part)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    files = {f"part{i}": tmp_path / f"part{i}" for i in (0, 1)}
    assert torch.equal(logits(assemble("gguf", files, scratch).model), logits(tiny))


def test_files_of_a_directory_are_assembled(tiny, tmp_path):
    LanguageModel(tiny).save(tmp_path / "stored")
    files = {p.name: p for p in (tmp_path / "stored").iterdir()}
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert torch.equal(logits(assemble("directory", files, scratch).model), logits(tiny))


def test_damaged_gguf_files_are_refused(gguf_file, tmp_path):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf_file.read_bytes()[:-5000])
    with pytest.raises(RetrofitError, match=r"cut\.gguf cannot be read"):
        gguf.read(cut)
    cut.write_bytes(b"PK\x03\x04")
    with pytest.raises(RetrofitError, match=r"cut\.gguf is no GGUF file"):
        gguf.read(cut)
    with pytest.raises(RetrofitError, match="does not exist"):
        gguf.read(tmp_path / "none.gguf")


def test_a_base_by_path_is_float32_and_frozen(tmp_path):
    LanguageModel(tiny_model("qwen2").to(torch.bfloat16)).save(tmp_path)
    model = base({"path": str(tmp_path), "files": {}}, Context()).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())


def test_base_errors(tmp_path):
    with pytest.raises(RetrofitError, match=r"^directory .*/nope does not exist$"):
        base({"path": str(tmp_path / "nope")}, Context())
    with pytest.raises(RetrofitError, match=r"huggingface, path or a name, found \['hub'\]"):
        base({"hub": "x"}, Context())
    with pytest.raises(RetrofitError, match="is no hub repository"):
        from_hub("/not/a/repository")


def test_no_network_is_said_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RetrofitError, match="nobody/nothing at main cannot be had") as error:
        from_hub("nobody/nothing")
    assert "\n" not in str(error.value)


def test_another_configuration_than_declared_is_refused():
    with pytest.raises(RetrofitError, match="hidden_size = 32, the declaration 64"):
        check_config("tiny", {"hidden_size": 64}, tiny_model("llama").config.to_dict())


def declaration(**changes):
    raw = {
        "title": "t",
        "licence": "l",
        "description": "d",
        "layout": "gguf",
        "files": {"m.gguf": {"sha256": "0" * 64}},
        "sources": [{"kind": "path", "files": {"m.gguf": "/somewhere/m.gguf"}}],
    }
    return ModelDeclaration.model_validate(raw | changes)


def test_declarations_are_checked():
    declaration()
    with pytest.raises(ValidationError, match=r"no source has the file 'n\.gguf'"):
        declaration(files={"m.gguf": {"sha256": "0" * 64}, "n.gguf": {"sha256": "0" * 64}})
    with pytest.raises(ValidationError, match="needs a sha256"):
        declaration(
            files={"m.gguf": {}},
            sources=[{"kind": "url", "files": {"m.gguf": "https://example.org/m.gguf"}}],
        )
    with pytest.raises(ValidationError, match=r"needs the file config\.json"):
        declaration(layout="directory")


def pinned(path):
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


@pytest.fixture
def parts(gguf_file, tmp_path, monkeypatch):
    """A declaration whose GGUF lies in two parts at two places, and an empty cache."""
    monkeypatch.setenv("RETROFIT_CACHE", str(tmp_path / "cache"))
    whole = gguf_file.read_bytes()
    paths = {"a.part0": tmp_path / "a.part0", "a.part1": tmp_path / "a.part1"}
    for path, part in zip(paths.values(), (whole[:1000], whole[1000:]), strict=True):
        path.write_bytes(part)
    sources = [{"kind": "path", "files": {n: str(p)}} for n, p in reversed(paths.items())]
    return {
        "name": "tiny",
        "title": "Tiny",
        "licence": "none",
        "description": "d",
        "layout": "gguf",
        "files": {name: pinned(path) for name, path in paths.items()},
        "sources": sources,
        "config": {"hidden_size": 32, "num_hidden_layers": 3},
        "caveat": "random",
    }


def test_a_declared_model_in_parts_is_fetched_and_joined(tiny, parts):
    model = base(parts, Context())
    assert torch.equal(logits(model.model), logits(tiny))
    assert model.notes["base"] == {"name": "tiny", "title": "Tiny", "licence": "none"}
    assert model.notes["caveat"] == "random"


def test_a_tampered_part_is_refused_by_name(parts, tmp_path):
    with (tmp_path / "a.part1").open("r+b") as file:
        file.seek(500)
        file.write(b"tampered")
    with pytest.raises(
        RetrofitError, match=r"a\.part1 is not the declared file: sha256 .* expected"
    ):
        base(parts, Context())


def test_a_declaration_of_another_model_is_refused(parts):
    with pytest.raises(RetrofitError, match="model tiny: its configuration says num_hidden_layers"):
        base(parts | {"config": {"num_hidden_layers": 4}}, Context())


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_declared_models_are_valid(path):
    assert ModelDeclaration.model_validate(strict_yaml.load(path).value).config


@pytest.mark.slow
def test_smollm2_round_trip_is_exact():
    """The real model, where a study has built it: reloading gives the same logits and tokens."""
    built = sorted(Path(__file__).parents[2].glob("results/runs/base/smollm2-135m-*/config.json"))
    if not built:
        pytest.skip("SmolLM2-135M is not built; any study on it builds it")
    directory = built[-1].parent
    model = language.load(directory)
    config = model.model.config.to_dict()
    declared = ModelDeclaration.model_validate(
        strict_yaml.load(CONFIGS / "smollm2-135m.yaml").value
    )
    check_config("smollm2-135m", declared.config, config)
    assert "quantization_config" not in config
    assert sum(p.numel() for p in model.model.parameters()) == 134_515_008
    ids = model.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        answer = model.model(input_ids=ids).logits[0, -1].argmax()
    assert model.tokenizer.decode(answer) == " Paris"

"""The artifact of a language model: what is saved is what is loaded, bit for bit."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from methods.models.language import LanguageModel, load
from methods.study.errors import RetrofitError
from tests.models.grid import nearest, quantize_model
from tests.models.tiny import ARCHITECTURES, tiny_model, tiny_tokens

TOKENS = tiny_tokens(2, 20)
SCHEMES = {
    "w2": [(2, 16, False)],
    "w3": [(3, 16, False)],
    "w4-symmetric": [(4, 16, True)],
    "w8-row": [(8, -1, False)],
    "w3-row-symmetric": [(3, -1, True)],
    "mixed": [(2, 16, False), (3, 8, True), (4, -1, False), (8, 32, False)],
}


@torch.no_grad()
def logits(model):
    return model(input_ids=TOKENS).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_dense_round_trip(architecture, tmp_path):
    model = tiny_model(architecture)
    LanguageModel(model, notes={"step": 3}).save(tmp_path)
    again = load(tmp_path)
    assert torch.equal(logits(again.model), logits(model))
    assert again.notes == {"step": 3}
    assert again.quantized == {}
    assert not again.model.training


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_packed_round_trip_is_exact_here_and_in_transformers(architecture, scheme, tmp_path):
    model = tiny_model(architecture)
    packed = quantize_model(model, SCHEMES[scheme])
    LanguageModel(model, quantized=packed).save(tmp_path)
    again = load(tmp_path)
    assert packed.keys() == again.quantized.keys()
    assert all(again.quantized[name].same_as(packed[name]) for name in packed)
    assert torch.equal(logits(again.model), logits(model))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(theirs.eval()), logits(model))


def test_packed_weights_are_not_also_stored_dense(tmp_path):
    model = tiny_model("llama")
    packed = quantize_model(model, [(4, 16, False)])
    LanguageModel(model, quantized=packed).save(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert not [name for name in packed if f"{name}.weight" in stored]
    assert "lm_head.weight" not in stored  # tied to the embedding
    name, layer = "model.layers.0.mlp.down_proj", packed["model.layers.0.mlp.down_proj"]
    assert stored[f"{name}.weight_packed"].numel() * 4 == layer.codes.numel() // 2


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for run in "ab":
        model = tiny_model("llama")
        LanguageModel(model, quantized=quantize_model(model, [(3, 16, False)])).save(tmp_path / run)
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b").iterdir())
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )


def test_a_packed_form_that_disagrees_with_the_model_is_refused(tmp_path):
    model = tiny_model("llama")
    name = "model.layers.1.mlp.up_proj"
    packed = nearest(model.get_submodule(name).weight, 4)
    with pytest.raises(RetrofitError, match=rf"{name} differs from its packed form"):
        LanguageModel(model, quantized={name: packed}).save(tmp_path)
    head = nearest(model.lm_head.weight, 4)
    with pytest.raises(RetrofitError, match="lm_head shares its weight with the embedding"):
        LanguageModel(model, quantized={"lm_head": head}).save(tmp_path)
    with pytest.raises(RetrofitError, match="no linear layer"):
        LanguageModel(model, quantized={"model.norm": packed}).save(tmp_path)


def test_wrong_directories_say_what_is_wrong(tmp_path):
    with pytest.raises(RetrofitError, match=r"directory .*nowhere does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(RetrofitError, match="has no config"):
        load(tmp_path)
    tiny_model("llama").config.save_pretrained(tmp_path)
    with pytest.raises(RetrofitError, match="no weights"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(RetrofitError, match=r"pickled weights.*convert them once"):
        load(tmp_path)


def test_missing_left_over_and_damaged_weights_are_refused(tmp_path):
    LanguageModel(tiny_model("llama")).save(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    cut = {k: v for k, v in whole.items() if k != "model.norm.weight"}
    save_file(cut, path, {"format": "pt"})
    with pytest.raises(RetrofitError, match=r"missing keys: model\.norm\.weight"):
        load(tmp_path)
    save_file(whole | {"model.extra": torch.ones(1)}, path, {"format": "pt"})
    with pytest.raises(RetrofitError, match=r"unexpected keys: model\.extra"):
        load(tmp_path)
    save_file(whole, path, {"format": "pt"})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RetrofitError, match="damaged"):
        load(tmp_path)


def test_other_quantised_checkpoints_are_refused(tmp_path):
    LanguageModel(tiny_model("llama")).save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    path.write_text(json.dumps(config))
    with pytest.raises(RetrofitError, match="is quantised as gptq"):
        load(tmp_path)


def test_registers_may_not_name_foreign_modules(tmp_path):
    LanguageModel(tiny_model("llama"), registers=("os",)).save(tmp_path)
    with pytest.raises(RetrofitError, match="refuses to import os"):
        load(tmp_path)

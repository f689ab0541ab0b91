"""Every export is proved by loading it back; a bad one leaves nothing behind."""

import importlib.util
import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from methods.export import formats
from methods.export.command import export as export_run
from methods.export.formats import Check, check, export
from methods.models.language import LanguageModel
from methods.study.errors import RetrofitError
from tests.models.grid import quantize_model
from tests.models.tiny import ARCHITECTURES, tiny_model, tiny_tokens

HAS_GPTQMODEL = importlib.util.find_spec("gptqmodel") is not None


def packed_model(architecture="llama", *schemes):
    model = tiny_model(architecture)
    return LanguageModel(model, quantized=quantize_model(model, schemes or [(4, 16, False)]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("format", formats.FORMATS)
def test_every_format_of_every_architecture(architecture, format, tmp_path):
    found = export(packed_model(architecture), tmp_path / "out", format)
    assert found.passed
    assert set(found.distances) | set(found.skipped) == set(formats.find(format).readers)
    if format in ("dense", "compressed-tensors"):
        assert found.distances == {"ours": 0.0, "transformers": 0.0}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_dense_export_is_an_ordinary_directory(tmp_path):
    model = packed_model()
    export(model, tmp_path / "out", "dense")
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = tiny_tokens(1, 9)
    with torch.no_grad():
        assert torch.equal(theirs(tokens).logits, model.model(tokens).logits)


@pytest.mark.skipif(not HAS_GPTQMODEL, reason="gptqmodel is not installed")
@pytest.mark.parametrize("format", ["awq-gemm", "gptq-v1", "gptq-v2"])
def test_packed_formats_load_through_transformers(format, tmp_path):
    # gptqmodel's kernels want more columns than the tiny models have.
    model = tiny_model("llama", hidden_size=128, intermediate_size=256, head_dim=32)
    model = LanguageModel(model, quantized=quantize_model(model, [(4, 32, False)]))
    found = export(model, tmp_path / "out", format)
    assert found.distances["transformers"] < 5e-3


def test_readers_without_their_package_are_named(tmp_path):
    if HAS_GPTQMODEL:
        pytest.skip("gptqmodel is installed")
    found = export(packed_model(), tmp_path / "out", "awq-gemm")
    assert found.skipped == {"transformers": "gptqmodel"}
    assert "transformers: not checked, needs gptqmodel" in str(found)
    assert found.distances["our unpacker"] < 2e-3


def test_a_wrong_checkpoint_does_not_pass(tmp_path):
    one, other = packed_model(), packed_model("llama", (3, 16, False))
    other.save(tmp_path / "other")
    found = check(tmp_path / "other", "compressed-tensors", one.model)
    assert not found.passed
    assert found.distances["ours"] > 0.01


def test_a_reader_that_breaks_is_named_and_nothing_is_left(tmp_path, monkeypatch):
    def broken(directory):
        raise ImportError("no kernel for this machine\nand a page of advice")

    chosen = formats.FORMATS["gptq-v1"]
    readers = {**chosen.readers, "transformers": broken}
    monkeypatch.setitem(formats.FORMATS, "gptq-v1", replace(chosen, readers=readers, needs={}))
    message = "gptq-v1 does not load by transformers: ImportError: no kernel for this machine$"
    with pytest.raises(RetrofitError, match=message):
        export(packed_model(), tmp_path / "out", "gptq-v1")
    assert not list(tmp_path.iterdir())
    rows = {row[0]: row for row in formats.matrix(packed_model(), tmp_path / "all")}
    assert "no kernel" in rows["gptq-v1"][2]
    assert float(rows["dense"][2]) == 0


def test_an_export_that_differs_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(
        formats, "check", lambda d, f, m: Check(f, d, {"ours": 0.5}, tolerance=1e-6)
    )
    with pytest.raises(RetrofitError, match=r"does not load back as the model.*ours: 5\.0e-01"):
        export(packed_model(), tmp_path / "out", "dense")
    assert not list(tmp_path.iterdir())


def test_norms_too_fine_for_float16_are_said(tmp_path):
    # Gemma multiplies by 1 + w: where that is small, the float16 of w has few digits of it.
    model = tiny_model("gemma3")
    for name, weight in model.named_parameters():
        if name.endswith("pre_feedforward_layernorm.weight"):
            torch.nn.init.uniform_(weight, -0.998, -0.990)
        if "gate_proj" in name or "up_proj" in name:
            weight.data *= 200  # as folding does: the product stays what it was
    model = LanguageModel(model, quantized=quantize_model(model, [(4, 16, False)]))
    with pytest.raises(RetrofitError, match=r"float16, which may be too coarse.*keeps float32"):
        export(model, tmp_path / "out", "awq-gemm")
    assert export(model, tmp_path / "out", "compressed-tensors").distances["ours"] == 0


def test_refusals(tmp_path):
    with pytest.raises(RetrofitError, match="did you mean 'awq-gemm'"):
        export(packed_model(), tmp_path / "out", "awq_gemm")
    with pytest.raises(RetrofitError, match="AWQ GEMM holds 4 bits only"):
        export(packed_model("llama", (3, 16, False)), tmp_path / "out", "awq-gemm")
    with pytest.raises(RetrofitError, match="this model has none"):
        export(LanguageModel(tiny_model("llama")), tmp_path / "out", "compressed-tensors")
    with pytest.raises(RetrofitError, match=r"has 5 bits; compressed-tensors holds 2, 3, 4, 8"):
        export(packed_model("llama", (5, 16, False)), tmp_path / "out", "compressed-tensors")
    (tmp_path / "out").mkdir()
    with pytest.raises(RetrofitError, match="exists already"):
        export(packed_model(), tmp_path / "out", "dense")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_command_exports_a_run(tmp_path):
    packed_model().save(tmp_path / "run")
    line = export_run(tmp_path / "run", "awq-gemm", tmp_path / "out")
    assert "awq-gemm, logits within" in line
    with pytest.raises(RetrofitError, match=r"there is no export format"):
        export_run(tmp_path / "nowhere", "gguf", tmp_path / "out2")
    with pytest.raises(RetrofitError, match=r"directory .* does not exist"):
        export_run(tmp_path / "nowhere", "dense", tmp_path / "out2")


def test_the_matrix_tries_every_format_and_says_why_not(tmp_path):
    rows = formats.matrix(packed_model("llama", (4, 16, False)), tmp_path)
    assert {row[0] for row in rows} == set(formats.FORMATS)
    distances = {(row[0], row[1]): row[2] for row in rows}
    assert float(distances["gptq-v1", "our unpacker"]) < 5e-3
    if not HAS_GPTQMODEL:
        said = distances["gptq-v1", "transformers"]
        assert (
            "needs gptqmodel, optimum (pip install --no-deps gptqmodel optimum device-smi" in said
        )
    three = formats.matrix(packed_model("llama", (3, 16, False)), tmp_path / "three")
    told = {row[0]: row[2] for row in three}
    assert "holds 4 bits only" in told["awq-gemm"]
    assert "16 outputs; GPTQ packs 32 of them" in told["gptq-v1"]
    assert float(told["compressed-tensors"]) == 0

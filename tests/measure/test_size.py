"""Size on closed forms, and against the bytes that are really written."""

import json
import struct

import pytest
from torch import nn

from methods.measure.params import Size
from methods.measure.size import measure
from methods.models.language import LanguageModel
from methods.run.context import Context
from tests.models.grid import quantize_model
from tests.models.tiny import tiny_model

SCHEMES = {
    "w4": [(4, 16, False)],
    "w3-row": [(3, -1, False)],
    "w8-symmetric": [(8, 16, True)],
    "mixed": [(2, 16, False), (4, 8, False)],
}


def size(model, **options):
    return {k: m.value for k, m in measure(model, {}, Size(**options), Context()).items()}


def payload_bytes(path):
    """Bytes of the tensors of a safetensors file: what follows its header."""
    raw = path.read_bytes()
    (header,) = struct.unpack("<Q", raw[:8])
    assert json.loads(raw[8 : 8 + header])
    return len(raw) - 8 - header


@pytest.mark.parametrize("scheme", SCHEMES)
def test_stored_is_what_the_file_holds(scheme, tmp_path):
    model = tiny_model("llama")
    payload = LanguageModel(model, quantized=quantize_model(model, SCHEMES[scheme]))
    payload.save(tmp_path)
    assert size(payload)["size/stored"] == payload_bytes(tmp_path / "model.safetensors")


def test_bits_per_weight_of_uniform_groups():
    model = tiny_model("llama")
    payload = LanguageModel(model, quantized=quantize_model(model, SCHEMES["w4"]))
    assert size(payload)["bits_per_weight"] == pytest.approx(4 + 16 / 16 + 4 / 16)
    assert size(payload, scale_bits=32)["bits_per_weight"] == pytest.approx(4 + 32 / 16 + 4 / 16)
    model = tiny_model("llama")
    payload = LanguageModel(model, quantized=quantize_model(model, SCHEMES["w8-symmetric"]))
    assert size(payload)["bits_per_weight"] == pytest.approx(8 + 16 / 16)


def test_dense_model():
    model = tiny_model("llama")
    found = size(LanguageModel(model))
    numbers = sum(p.numel() for p in model.parameters())
    assert found == {
        "parameters": numbers,
        "nonzeros": numbers,
        "size/stored": 4 * numbers,
        "size/deployed": 2 * numbers,
        "bits_per_weight": 16,
    }


def test_deployed_size_of_a_partly_packed_model():
    model = tiny_model("llama")
    packed = quantize_model(model, SCHEMES["w4"])
    weights = sum(w.codes.numel() for w in packed.values())
    dense = sum(p.numel() for p in model.parameters()) - weights
    found = size(LanguageModel(model, quantized=packed))
    assert found["size/deployed"] == dense * 2 + weights * 5.25 / 8


def test_a_network_without_blocks_has_no_bits_per_weight():
    net = nn.Linear(4, 3)
    net.weight.data[0] = 0
    net.bias.data[:] = 1
    assert size(net) == {
        "parameters": 15,
        "nonzeros": 11,
        "size/stored": 60,
        "size/deployed": 30,
    }

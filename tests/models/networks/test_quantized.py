"""A network with packed layers: stored as codes, read back to the same bits, measured as it is stored."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from methods.export.packed import PackedWeight
from methods.measure import size
from methods.models.networks.network import Network, build, load
from methods.study.errors import RetrofitError

ARGUMENTS = {"channels": 3, "classes": 4, "width": 4, "blocks": 1}


def packed(rows, columns, bits=3, group_size=-1, symmetric=False):
    draw = torch.Generator().manual_seed(rows * columns)
    groups = 1 if group_size == -1 else columns // group_size
    zero = torch.randint(0, 2**bits, (rows, groups), generator=draw, dtype=torch.int32)
    return PackedWeight(
        torch.randint(0, 2**bits, (rows, columns), generator=draw).to(torch.uint8),
        torch.rand(rows, groups, generator=draw) / 10 + 0.01,
        torch.full_like(zero, 2 ** (bits - 1)) if symmetric else zero,
        bits,
        group_size,
        symmetric,
    )


def network(quantized):
    module = build("residual", ARGUMENTS, seed=0).eval()
    for name, weight in quantized.items():
        layer = module.get_submodule(name)
        layer.weight.data = weight.dequantize().view_as(layer.weight)
    return Network(
        module, "residual", ARGUMENTS, [0.5] * 3, [0.5] * 3, list("abcd"), quantized=quantized
    )


CASES = {
    "convolutions": {"stem.0": packed(4, 27), "stages.1.conv2": packed(8, 72)},
    "linear": {"head": packed(4, 16, bits=4, group_size=8, symmetric=True)},
    "mixed": {
        "stem.0": packed(4, 27, bits=8),
        "stages.0.conv1": packed(4, 36, bits=2, group_size=12),
        "head": packed(4, 16, bits=3, symmetric=True),
    },
    "odd widths": {"head": packed(4, 16, bits=5), "stem.0": packed(4, 27, bits=1)},
}


@pytest.mark.parametrize("quantized", CASES.values(), ids=CASES)
def test_packed_layers_come_back_to_the_same_bits(tmp_path, quantized):
    made = network(quantized)
    made.save(tmp_path)
    back = load(tmp_path)
    assert set(back.quantized) == set(quantized)
    assert all(back.quantized[name].same_as(weight) for name, weight in quantized.items())
    for name, tensor in made.module.state_dict().items():
        assert torch.equal(back.module.state_dict()[name], tensor), name
    x = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    assert torch.equal(back.logits(x), made.logits(x))
    stored = load_file(tmp_path / "model.safetensors")
    assert not any(f"{name}.weight" in stored for name in quantized)


@pytest.mark.parametrize("quantized", CASES.values(), ids=CASES)
def test_the_size_measured_is_the_size_stored(tmp_path, quantized):
    made = network(quantized)
    made.save(tmp_path)
    params = SimpleNamespace(dense_bits=16, scale_bits=16)
    found = size.measure(made, {}, params, None)
    stored = load_file(tmp_path / "model.safetensors")
    assert found["size/stored"].value == sum(t.nbytes for t in stored.values())
    numbers = sum(p.numel() for p in made.module.parameters())
    own = sum(
        w.codes.numel() * w.bits
        + w.scale.numel() * 16
        + (not w.symmetric) * w.zero.numel() * w.bits
        for w in quantized.values()
    )
    dense = numbers - sum(w.codes.numel() for w in quantized.values())
    assert found["size/deployed"].value == (own + dense * 16) / 8
    assert found["parameters"].value == numbers


def test_what_is_stored_must_be_what_is_measured(tmp_path):
    weight = packed(4, 16)
    made = network({"head": weight})
    made.module.head.weight.data[0, 0] += 1e-3
    with pytest.raises(RetrofitError, match="dense weight of head differs"):
        made.save(tmp_path)
    for name, wrong, message in [
        ("haed", weight, "packed layer haed is no linear or convolution layer"),
        ("stages", weight, "packed layer stages is no linear or convolution layer"),
        ("stem.0", weight, r"packed layer stem\.0 is \(4, 16\), the network's is \(4, 27\)"),
    ]:
        with pytest.raises(RetrofitError, match=message):
            dataclasses.replace(made, quantized={name: wrong}).save(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    network({"head": packed(4, 16)}).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["arguments"]["width"] = 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RetrofitError, match="does not fit the network"):
        load(tmp_path)

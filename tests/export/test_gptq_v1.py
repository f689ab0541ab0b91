"""The GPTQ v1 packing: round trips, the layout by hand, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.export.gptq_v1 import check_layers, pack_rows, read, unpack_rows, write
from methods.export.packed import PackedWeight
from methods.models.language import LanguageModel
from methods.study.errors import RetrofitError
from tests.models.grid import quantize_model
from tests.models.tiny import tiny_model


@given(st.sampled_from([2, 4, 8]), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
def test_packing_round_trips(bits, words, columns, seed):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (words * 32 // bits, columns), generator=g).to(torch.uint8)
    packed = pack_rows(codes, bits)
    assert packed.dtype == torch.int32
    assert torch.equal(unpack_rows(packed, bits), codes)


def test_the_first_row_is_in_the_lowest_bits_and_the_last_reaches_the_sign():
    codes = torch.zeros(8, 2, dtype=torch.uint8)
    codes[0, 0], codes[7, 1] = 5, 15
    assert pack_rows(codes, 4).tolist() == [[5, -(2**28)]]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_files_hold_zero_points_minus_one_and_read_back(bits, tmp_path):
    from safetensors.torch import load_file

    model = tiny_model("llama")
    # Symmetric at 2 bits, where a random group may well have no negative weight.
    packed = quantize_model(model, [(bits, 16, bits == 2)])
    write(LanguageModel(model, quantized=packed), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    zeros = unpack_rows(stored[f"{name}.qzeros"].T, bits)
    assert torch.equal(zeros.to(torch.int32) + 1, packed[name].zero)
    assert stored[f"{name}.g_idx"].tolist() == [i // 16 for i in range(32)]
    again, rest = read(tmp_path)
    assert again.keys() == packed.keys()
    for key, weight in packed.items():
        assert torch.equal(again[key].codes, weight.codes)
        assert torch.equal(again[key].zero, weight.zero)
        torch.testing.assert_close(again[key].scale, weight.scale, rtol=1e-3, atol=1e-6)
        assert f"{key}.weight" not in rest


def weight(bits=4, zero=3, rows=8, group_size=16):
    groups = 32 // group_size
    return PackedWeight(
        torch.zeros(rows, 32, dtype=torch.uint8),
        torch.ones(rows, groups),
        torch.full((rows, groups), zero, dtype=torch.int32),
        bits,
        group_size,
        False,
    )


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"a": weight(bits=3)}, "3 bits; GPTQ v1 holds 2, 4, 8"),
        ({"a": weight(zero=0)}, "zero point of 0"),
        ({"a": weight(rows=6)}, "6 outputs"),
        ({"a": weight(), "b": weight(group_size=32)}, r"groups of 16 \(a\).*groups of 32 \(b\)"),
    ],
)
def test_what_the_format_cannot_hold_is_named(layers, message):
    with pytest.raises(RetrofitError, match=message):
        check_layers(layers)

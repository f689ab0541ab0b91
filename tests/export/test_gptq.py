"""The GPTQ packing: round trips, the layout by hand, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.export.gptq import (
    check_layers,
    pack_rows,
    read,
    rows_per_block,
    unpack_rows,
    write,
)
from methods.export.packed import PackedWeight
from methods.models.language import LanguageModel
from methods.study.errors import RetrofitError
from tests.models.grid import quantize_model
from tests.models.tiny import tiny_model


@given(st.sampled_from([2, 3, 4, 8]), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
def test_packing_round_trips(bits, words, columns, seed):
    g = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (words * rows_per_block(bits), columns), generator=g).to(
        torch.uint8
    )
    packed = pack_rows(codes, bits)
    assert packed.dtype == torch.int32
    assert torch.equal(unpack_rows(packed, bits), codes)


def test_the_first_row_is_in_the_lowest_bits_and_the_last_reaches_the_sign():
    codes = torch.zeros(8, 2, dtype=torch.uint8)
    codes[0, 0], codes[7, 1] = 5, 15
    assert pack_rows(codes, 4).tolist() == [[5, -(2**28)]]


def test_three_bits_cross_word_borders_where_the_kernels_expect_it():
    # Of 32 codes the 11th has two bits in the first word and one in the second, the 22nd one and two.
    def words(row, code):
        codes = torch.zeros(32, 1, dtype=torch.uint8)
        codes[row, 0] = code
        return pack_rows(codes, 3).flatten().tolist()

    assert words(9, 7) == [7 << 27, 0, 0]
    assert words(10, 0b110) == [-(2**31), 1, 0]
    assert words(11, 7) == [0, 7 << 1, 0]
    assert words(21, 0b101) == [0, -(2**31), 0b10]
    assert words(31, 3) == [0, 0, 3 << 29]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_files_hold_zero_points_and_read_back(bits, version, tmp_path):
    from safetensors.torch import load_file

    model = tiny_model("llama", num_key_value_heads=4)
    # Symmetric at few bits, where a random group may well have no negative weight.
    packed = quantize_model(model, [(bits, 16, bits < 4)])
    write(LanguageModel(model, quantized=packed), tmp_path, version)
    stored = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    assert stored[f"{name}.qweight"].shape == (32 * bits // 32, 32)
    assert stored[f"{name}.qzeros"].shape == (2, 32 * bits // 32)
    zeros = unpack_rows(stored[f"{name}.qzeros"].T, bits)
    assert torch.equal(zeros.to(torch.int32) + (version == 1), packed[name].zero)
    assert stored[f"{name}.g_idx"].tolist() == [i // 16 for i in range(32)]
    again, rest = read(tmp_path)
    assert again.keys() == packed.keys()
    for key, weight in packed.items():
        assert torch.equal(again[key].codes, weight.codes)
        assert torch.equal(again[key].zero, weight.zero)
        torch.testing.assert_close(again[key].scale, weight.scale, rtol=1e-3, atol=1e-6)
        assert f"{key}.weight" not in rest


def weight(bits=4, zero=3, rows=8, group_size=16, columns=32):
    groups = columns // group_size
    return PackedWeight(
        torch.zeros(rows, columns, dtype=torch.uint8),
        torch.ones(rows, groups),
        torch.full((rows, groups), zero, dtype=torch.int32),
        bits,
        group_size,
        False,
    )


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"a": weight(bits=5)}, "5 bits; GPTQ holds 2, 3, 4, 8"),
        ({"a": weight(bits=3)}, "8 outputs; GPTQ packs 32"),
        ({"a": weight(bits=3, rows=32, columns=48)}, "48 inputs; GPTQ packs 32"),
        ({"a": weight(zero=0)}, "zero point of 0"),
        ({"a": weight(rows=6)}, "6 outputs"),
        ({"a": weight(), "b": weight(group_size=32)}, r"groups of 16 \(a\).*groups of 32 \(b\)"),
    ],
)
def test_what_the_format_cannot_hold_is_named(layers, message):
    with pytest.raises(RetrofitError, match=message):
        check_layers(layers)


def test_version_2_keeps_zero_points_of_0():
    assert check_layers({"a": weight(zero=0)}, version=2) == (4, 16)

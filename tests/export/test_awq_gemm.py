"""The AWQ GEMM packing against AutoAWQ's own arrays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.export.awq_gemm import check_layers, pack_columns, read, unpack_columns, write
from methods.export.half_checkpoint import rounded
from methods.export.packed import PackedWeight
from methods.models.language import LanguageModel
from methods.study.errors import RetrofitError
from tests.models.grid import nearest, quantize_model
from tests.models.tiny import tiny_model

GOLDEN = Path(__file__).parents[1] / "golden" / "export" / "autoawq_pack.npz"


@pytest.fixture(scope="module")
def golden():
    return {key: torch.from_numpy(value) for key, value in np.load(GOLDEN).items()}


def test_packing_equals_autoawq(golden):
    codes, zeros = golden["int_weight_in_out"], golden["int_zeros_groups_out"]
    assert torch.equal(pack_columns(codes), golden["qweight"])
    assert torch.equal(pack_columns(zeros), golden["qzeros"])
    assert torch.equal(unpack_columns(golden["qweight"]), codes.to(torch.uint8))


def test_unpacked_weight_equals_autoawq(golden):
    weight = PackedWeight(
        unpack_columns(golden["qweight"]).T.contiguous(),
        golden["scales"].T.float().contiguous(),
        unpack_columns(golden["qzeros"]).T.to(torch.int32),
        bits=4,
        group_size=64,
        symmetric=False,
    )
    # AutoAWQ multiplies in half precision; the product of a small integer and a half rounds once.
    assert torch.equal(weight.dequantize().half().T, golden["dequant_in_out_half"])


@given(rows=st.integers(1, 5), words=st.integers(1, 4), seed=st.integers(0, 999))
def test_round_trip(rows, words, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(16, (rows, 8 * words), generator=generator).to(torch.uint8)
    assert torch.equal(unpack_columns(pack_columns(codes)), codes)


def test_whole_words_only():
    with pytest.raises(RetrofitError, match="12 is no multiple of 8"):
        pack_columns(torch.zeros(2, 12, dtype=torch.uint8))


@pytest.mark.parametrize("scheme", [(4, 16, False), (4, -1, False), (4, 16, True)])
def test_what_is_written_is_read(scheme, tmp_path):
    model = tiny_model("qwen2")  # has biases
    packed = quantize_model(model, [scheme])
    write(LanguageModel(model, quantized=packed), tmp_path)
    found, dense = read(tmp_path)
    assert found.keys() == packed.keys()
    assert all(found[name].same_as(rounded(name, packed[name])) for name in packed)
    bias = "model.layers.0.self_attn.q_proj.bias"
    assert torch.equal(dense[bias], model.state_dict()[bias].half())


def test_layers_that_do_not_fit_are_named():
    weight = torch.randn(16, 32)
    with pytest.raises(RetrofitError, match="up has 3 bits; AWQ GEMM holds 4 bits only"):
        check_layers({"up": nearest(weight, 3, 16)})
    with pytest.raises(RetrofitError, match="up has 12 output columns"):
        check_layers({"up": nearest(weight[:12], 4, 16)})
    with pytest.raises(RetrofitError, match=r"one group size .* 16 \(up\), 8 \(down\)"):
        check_layers({"up": nearest(weight, 4, 16), "down": nearest(weight, 4, 8)})


def test_scales_beyond_half_precision_are_refused_unless_unused():
    weight = nearest(torch.randn(8, 16), 4, 16)
    weight.scale[0] = 1e-8
    with pytest.raises(RetrofitError, match="up has a scale that float16 cannot hold"):
        rounded("up", weight)
    weight.codes[0] = weight.zero[0].to(torch.uint8)  # a row of zeros: its scale is not used
    rounded("up", weight)

"""The dense bit stream, against a definition in plain integers and against compressed-tensors."""

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from hypothesis import given
from hypothesis import strategies as st

from methods.export.bitstream import pack, unpack


@given(bits=st.integers(1, 8), columns=st.integers(1, 70), seed=st.integers(0, 999))
def test_round_trip_and_definition(bits, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (3, columns), generator=generator).to(torch.uint8)
    words = pack(codes, bits)
    assert words.shape == (3, -(-columns * bits // 32))
    assert torch.equal(unpack(words, bits, columns), codes)
    for row in range(3):
        stream = sum(int(code) << (i * bits) for i, code in enumerate(codes[row]))
        found = sum((int(word) % 2**32) << (32 * i) for i, word in enumerate(words[row]))
        assert found == stream


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("columns", [7, 32, 50])
def test_equals_the_library(bits, columns):
    codes = torch.randint(2**bits, (5, columns), generator=torch.Generator().manual_seed(1))
    signed = (codes - 2 ** (bits - 1)).to(torch.int8)
    assert torch.equal(pack(codes, bits), pack_to_int32(signed, bits))
    assert torch.equal(pack(codes, bits).T, pack_to_int32(signed.T, bits, packed_dim=0))


def test_the_sign_bit_of_a_word_survives():
    codes = torch.full((1, 8), 15, dtype=torch.uint8)
    assert pack(codes, 4).item() == -1
    assert torch.equal(unpack(torch.tensor([[-1]], dtype=torch.int32), 4, 8), codes)

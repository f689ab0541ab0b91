"""The in-memory form of a quantised weight checks itself."""

import pytest
import torch

from methods.export.packed import PackedWeight
from methods.study.errors import RetrofitError


def parts(**changes):
    given = {
        "codes": torch.tensor([[0, 1, 2, 3], [3, 3, 0, 1]], dtype=torch.uint8),
        "scale": torch.tensor([[0.5, 2.0], [1.0, 0.25]]),
        "zero": torch.tensor([[1, 2], [0, 3]], dtype=torch.int32),
        "bits": 2,
        "group_size": 2,
        "symmetric": False,
    }
    return given | changes


def test_dequantize_by_hand():
    weight = PackedWeight(**parts())
    assert weight.dequantize().tolist() == [[-0.5, 0.0, 0.0, 2.0], [3.0, 3.0, -0.75, -0.5]]
    assert (weight.shape, weight.groups, weight.columns_per_group) == ((2, 4), 2, 2)


def test_one_group_per_row():
    row = parts(group_size=-1, scale=torch.ones(2, 1), zero=torch.zeros(2, 1, dtype=torch.int32))
    weight = PackedWeight(**row)
    assert torch.equal(weight.dequantize(), weight.codes.float())
    assert weight.columns_per_group == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 9}, "1 to 8 bits, not 9"),
        ({"group_size": 3}, "group size 3 does not divide the 4 input columns"),
        ({"group_size": 0}, "group size 0 does not divide"),
        ({"codes": torch.zeros(2, 2, 2, dtype=torch.uint8)}, r"must be \[out, in\]"),
        ({"codes": torch.zeros(2, 4)}, "uint8 or int32"),
        ({"codes": torch.full((2, 4), 4, dtype=torch.uint8)}, r"codes .* lie in 0\.\.3, found 4"),
        ({"zero": torch.full((2, 2), -1, dtype=torch.int32)}, r"zero .* lie in 0\.\.3"),
        ({"zero": torch.ones(2, 2)}, "zero must be an integer code"),
        ({"scale": torch.ones(2, 1)}, r"scale must be \[out, groups\] = \(2, 2\)"),
        ({"scale": torch.ones(2, 2).half()}, "scale must be float32"),
        ({"scale": torch.full((2, 2), torch.nan)}, "not finite"),
        ({"symmetric": True}, "zero = 2 everywhere"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(RetrofitError, match=message):
        PackedWeight(**parts(**changes))


def test_same_as_sees_every_part():
    weight = PackedWeight(**parts())
    assert weight.same_as(PackedWeight(**parts(codes=parts()["codes"].to(torch.int32))))
    other = parts()["scale"].clone()
    other[1, 1] += 1e-7
    assert not weight.same_as(PackedWeight(**parts(scale=other)))

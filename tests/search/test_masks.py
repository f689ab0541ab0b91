"""The mask against zero-padded slices and against the published code's numbers, with gradients."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from methods.search.choices import Choice
from methods.search.masks import (
    check_size,
    cut,
    indicator,
    joint,
    layer_norm,
    mask,
    superpose,
    window,
)
from methods.study.errors import RetrofitError
from tests.search.golden import close, golden, random

PLACES = ("leading", "leading", "centred", "centred")
KERNEL = Choice("kernel", (3, 5, 7))
WIDTH = Choice("width", (8, 16, 24))


def masked(shape, sizes, weights, places=PLACES):
    rows = [
        None if size is None else indicator(size, full, place)
        for size, full, place in zip(sizes, shape, places, strict=False)
    ]
    return mask(sizes, rows, weights)


def test_a_convolution_with_channels_and_kernel_is_the_published_one_with_its_gradients():
    channels = Choice("channels", (2, 4, 8))
    a = {"channels": golden("c1_ac"), "kernel": golden("c1_ak")}
    close(joint(a["channels"], a["kernel"]), golden("c1_w"), 1e-7)
    for tensor in a.values():
        tensor.requires_grad_()
    weight = golden("c1_W").requires_grad_()
    bias = golden("c1_b").requires_grad_()
    sizes = (channels, None, KERNEL, KERNEL)
    y = functional.conv2d(
        golden("c1_x"),
        weight * masked(weight.shape, sizes, a),
        bias * masked(bias.shape, sizes[:1], a),
        padding=3,
    )
    close(y, golden("c1_y"))
    y.backward(golden("c1_gy"))
    close(weight.grad, golden("c1_dW"), 1e-4)
    close(bias.grad, golden("c1_db"), 1e-4)
    # Chain rule from the weights of combinations to those of each decision. The bias knows of
    # channels only, so the kernel's gradient agrees up to a constant: what the simplex ignores.
    combined = golden("c1_dw").reshape(3, 3)
    close(a["channels"].grad, combined @ a["kernel"].detach(), 1e-4)
    found, wanted = a["kernel"].grad, a["channels"].detach() @ combined
    close(found - found.mean(), wanted - wanted.mean(), 1e-4)


def test_three_decisions_at_once_are_the_published_27_combinations():
    sizes = (Choice("out", (4, 8, 16)), Choice("in", (2, 4, 8)), KERNEL, KERNEL)
    a = {"in": golden("c2_ai"), "out": golden("c2_ao"), "kernel": golden("c2_ak")}
    close(joint(a["in"], a["out"], a["kernel"]), golden("c2_w"), 1e-7)
    weight, bias = golden("c2_W"), golden("c2_b")
    y = functional.conv2d(
        golden("c2_x"),
        weight * masked(weight.shape, sizes, a),
        bias * masked(bias.shape, sizes[:1], a),
        padding=3,
    )
    close(y, golden("c2_y"))


def test_a_choice_of_inputs_leaves_the_bias_alone():
    a = {"in": golden("c3_a")}
    weight = golden("c3_W")
    m = masked(weight.shape, (None, Choice("in", (2, 4, 8)), None, None), a)
    close(functional.conv2d(golden("c3_x"), weight * m, golden("c3_b"), padding=2), golden("c3_y"))


def test_linear_layers_of_the_language_space_are_the_published_ones():
    a = {"width": golden("g_a"), "ratio": golden("mlp_ar")}
    ratio = Choice("ratio", (2, 3, 4))
    inner, x = WIDTH * ratio, golden("lin_x")
    m = masked((24,), (WIDTH,), a)
    close(functional.embedding(golden("emb_idx"), golden("emb_W") * m), golden("emb_y"))
    close(
        functional.linear(
            x, golden("lin_W") * masked((24, 24), (WIDTH, WIDTH), a), golden("lin_b") * m
        ),
        golden("lin_y"),
    )
    up = functional.linear(
        x,
        golden("mlp_W") * masked((96, 24), (inner, WIDTH), a),
        golden("mlp_b") * masked((96,), (inner,), a),
    )
    close(up, golden("mlp_y"))
    down = functional.linear(
        golden("mlp2_x"),
        golden("mlp2_W") * masked((24, 96), (WIDTH, inner), a),
        golden("mlp2_b") * m,
    )
    close(down, golden("mlp2_y"))
    close(functional.linear(x, golden("head_W") * m), golden("head_y"))


def test_published_packed_queries_keys_and_values_read_the_wrong_rows():
    a, x = {"width": golden("g_a")}, golden("lin_x")
    m2, m = masked((24, 24), (WIDTH, WIDTH), a), masked((24,), (WIDTH,), a)
    parts = zip(golden("qkv_W").chunk(3), golden("qkv_b").chunk(3), strict=True)
    ours = torch.cat([functional.linear(x, w * m2, b * m) for w, b in parts], -1)
    close(ours, golden("qkv_y_blockwise"))
    assert float((ours - golden("qkv_y")).abs().max()) > 0.5


def test_published_layer_norm_is_not_the_sub_networks_and_ours_is():
    x, weight, bias, a = golden("ln_x"), golden("ln_w"), golden("ln_b"), golden("g_a")
    rows = indicator(WIDTH, 24)
    m = masked((24,), (WIDTH,), {"width": a})
    close(functional.layer_norm(x, (24,), weight * m, bias * m), golden("ln_y"))
    each = sum(
        share
        * functional.pad(functional.layer_norm(x[..., :e], (e,), weight[:e], bias[:e]), (0, 24 - e))
        for share, e in zip(a, WIDTH.options, strict=True)
    )
    close(layer_norm(x, weight, bias, 1e-5, rows, a), each)
    assert float((each - golden("ln_y")).abs().max()) > 0.3
    one_hot = torch.tensor([1.0, 0.0, 0.0])
    close(
        layer_norm(x, weight, bias, 1e-5, rows, one_hot)[..., :8],
        functional.layer_norm(x[..., :8], (8,), weight[:8], bias[:8]),
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=3, unique=True),
    st.booleans(),
    st.integers(0, 1000),
)
def test_the_mask_is_the_sum_of_padded_slices(outs, kernels, tied, seed):
    """Whatever the order of the options, and also where one decision rules outputs and inputs."""
    out, kernel = Choice("out", tuple(outs)), Choice("kernel", tuple(kernels))
    sizes = (out, out if tied else Choice("in", (2, 5)), kernel, kernel)
    weight = random(6, 6, 5, 5, seed=seed)
    weights = {
        name: random(len(c.options), seed=seed + n)
        for n, (name, c) in enumerate((s.choices[0].name, s.choices[0]) for s in sizes)
    }
    close(weight * masked(weight.shape, sizes, weights), superpose(weight, sizes, PLACES, weights))


def test_one_hot_weights_leave_the_named_slice_and_nothing_else():
    """The order of options must not matter: 1x1 and 3x3 are swapped in the published code."""
    for options in itertools.permutations((1, 3, 5)):
        kernel = Choice("kernel", options)
        weight = random(2, 2, 5, 5)
        for size in options:
            a = torch.eye(3)[kernel.index(size)]
            m = masked(weight.shape, (None, None, kernel, kernel), {"kernel": a})
            part = cut(weight, (None, None, kernel, kernel), PLACES, {"kernel": size})
            assert part.shape[-1] == size
            side = (5 - size) // 2
            assert torch.equal(weight * m, functional.pad(part, (side,) * 4))


def test_gradients_reach_the_slices_with_weight_and_no_other_entry():
    weight = random(8, 4, 7, 7).requires_grad_()
    out = Choice("out", (2, 4, 8))
    a = {
        "out": torch.tensor([0.3, 0.7, 0.0]).requires_grad_(),
        "kernel": torch.tensor([0.0, 1.0, 0.0]).requires_grad_(),
    }
    sizes = (out, None, KERNEL, KERNEL)
    upstream = random(8, 4, 7, 7, seed=1)
    (weight * masked(weight.shape, sizes, a)).backward(upstream)
    inside = torch.zeros(8, 4, 7, 7, dtype=torch.bool)
    inside[:4, :, 1:6, 1:6] = True
    assert torch.equal(weight.grad != 0, inside)
    for number, size in enumerate(out.options):
        padded = torch.zeros(8, 4, 7, 7)
        padded[:size, :, 1:6, 1:6] = weight.detach()[:size, :, 1:6, 1:6]
        close(a["out"].grad[number], (upstream * padded).sum(), 1e-4)


def test_corner_slices_are_another_operation_than_centred_ones():
    assert window(3, 7, "centred") == slice(2, 5)
    assert window(3, 7, "leading") == slice(0, 3)


@pytest.mark.parametrize(
    ("options", "full", "place", "words"),
    [
        ((4, 9), 8, "leading", "asks for 9 outputs, its super-weight has 8; allowed are 1 to 8"),
        ((0, 2), 8, "leading", "asks for 0 outputs"),
        ((3, 4), 7, "centred", "kernel of 4 does not lie in the centre of one of 7; choose odd"),
        ((3, 4), 6, "centred", "choose even sizes"),
    ],
)
def test_sizes_that_are_no_slice_are_refused(options, full, place, words):
    with pytest.raises(RetrofitError, match=words):
        check_size("conv", "outputs", Choice("c", options), full, place)

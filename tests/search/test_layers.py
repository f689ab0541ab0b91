"""Entangled layers: what they compute as a mixture, as a sub-network, and after extraction."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from methods.search.choices import Choice
from methods.search.layers import (
    EntangledConv2d,
    EntangledEmbedding,
    EntangledLinear,
)
from methods.search.mixture import Mixture
from methods.search.norms import EntangledBatchNorm, EntangledLayerNorm
from methods.study.errors import RetrofitError
from tests.search.golden import close, golden, random

OUT, IN, KERNEL = Choice("out", (2, 6, 4)), Choice("in", (3, 1)), Choice("kernel", (5, 3, 1))
WEIGHTS = {
    "out": torch.tensor([0.2, 0.5, 0.3]),
    "in": torch.tensor([0.6, 0.4]),
    "kernel": torch.tensor([0.1, 0.2, 0.7]),
}


def seeded(make):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return make()


def convolution(mixture, sharing="entangled", **axes):
    layer = seeded(lambda: nn.Conv2d(3, 6, 5, stride=2, padding=2))
    entangled = EntangledConv2d(layer, mixture, **axes)
    entangled.share(sharing, torch.Generator().manual_seed(0))
    return entangled


def weighted_sum(layer, x, decisions):
    """sum_i a_i Z(op_i(x)) by extracting every candidate."""
    total = 0.0
    for options in itertools.product(*(choice.options for choice in decisions)):
        chosen = dict(zip((c.name for c in decisions), options, strict=True))
        share = torch.stack([WEIGHTS[c.name][c.index(chosen[c.name])] for c in decisions]).prod()
        op = layer.plain({"in": 3, **chosen})
        y = op(x[:, : op.in_channels])
        total = total + share * functional.pad(y, (0, 0, 0, 0, 0, 6 - y.shape[1]))
    return total


@pytest.mark.parametrize("sharing", ["entangled", "outputs", "separate"])
def test_a_mixture_is_the_weighted_sum_of_its_candidates(sharing):
    """An operation without anything behind it is linear in its weight, so all three ways agree."""
    mixture, x = Mixture(), random(2, 3, 9, 9)
    layer = convolution(mixture, sharing, outputs=OUT, kernel=KERNEL)
    with mixture.under(weights=WEIGHTS):
        close(layer(x), weighted_sum(layer, x, [OUT, KERNEL]))


def test_inputs_are_superposed_too():
    mixture, x = Mixture(), random(2, 3, 9, 9)
    layer = convolution(mixture, outputs=OUT, inputs=IN, kernel=KERNEL)
    with mixture.under(weights=WEIGHTS):
        bias = layer.bias * layer.mask((OUT,))
        close(
            layer(x) - bias[:, None, None],
            sum(
                WEIGHTS["in"][IN.index(size)] * (_with_inputs(layer, x, size) - bias[:, None, None])
                for size in IN.options
            ),
        )


def _with_inputs(layer, x, size):
    one_hot = torch.eye(2)[IN.index(size)]
    with layer.mixture.under(weights=WEIGHTS | {"in": one_hot}):
        return layer(x)


@pytest.mark.parametrize("sharing", ["entangled", "outputs", "separate"])
def test_one_hot_weights_a_chosen_architecture_and_the_extracted_layer_agree(sharing):
    mixture, x = Mixture(), random(2, 3, 9, 9)
    layer = convolution(mixture, sharing, outputs=OUT, inputs=IN, kernel=KERNEL)
    for out, size, kernel in itertools.product(OUT.options, IN.options, KERNEL.options):
        chosen = {"out": out, "in": size, "kernel": kernel}
        plain = layer.plain(chosen)
        assert type(plain) is nn.Conv2d
        assert plain.weight.shape == (out, size, kernel, kernel)
        wanted = plain(x[:, :size])
        with mixture.under(chosen=chosen):
            assert torch.equal(layer(x[:, :size]), wanted)
        hot = {
            c.name: torch.eye(len(c.options))[c.index(chosen[c.name])] for c in (OUT, IN, KERNEL)
        }
        inactive = torch.cat([x[:, :size], torch.zeros_like(x[:, size:])], 1)
        with mixture.under(weights=hot):
            found = layer(inactive)
        close(found[:, :out], wanted)
        assert not found[:, out:].any()


def test_separate_options_have_weights_of_their_own():
    mixture = Mixture()
    entangled = convolution(mixture, outputs=OUT, kernel=KERNEL)
    separate = convolution(mixture, "separate", outputs=OUT, kernel=KERNEL)
    count = sum(p.numel() for p in separate.parameters())
    sizes = [(out * 3 * k * k + out) for out in OUT.options for k in KERNEL.options]
    assert count == sum(sizes)
    assert sum(p.numel() for p in entangled.parameters()) == max(sizes)
    with mixture.under(weights=WEIGHTS):
        separate(random(1, 3, 9, 9)).square().sum().backward()
    assert all(p.grad is not None for p in separate.parameters())


def test_a_smaller_kernel_keeps_its_centre_with_dilation():
    mixture, kernel = Mixture(), Choice("kernel", (3, 5))
    layer = EntangledConv2d(
        nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4, bias=False), mixture, kernel=kernel
    )
    x = random(1, 4, 8, 8)
    with mixture.under(weights={"kernel": torch.tensor([1.0, 0.0])}):
        found = layer(x)
    plain = layer.plain({"kernel": 3})
    assert plain.padding == (2, 2)
    close(found, plain(x))


def test_depthwise_channels_are_one_choice():
    mixture, width = Mixture(), Choice("width", (2, 4))
    layer = EntangledConv2d(nn.Conv2d(4, 4, 3, padding=1, groups=4), mixture, outputs=width)
    plain = layer.plain({"width": 2})
    assert plain.groups == 2
    x = random(1, 4, 5, 5)
    with mixture.under(weights={"width": torch.tensor([1.0, 0.0])}):
        close(layer(x)[:, :2], plain(x[:, :2]))


def test_batch_norm_is_the_published_one_and_its_sub_network_is_plain():
    mixture, width = Mixture(), Choice("width", (6, 8, 12))
    plain = nn.BatchNorm2d(12)
    plain.weight.data.copy_(golden("mb_bn_w"))
    plain.bias.data.copy_(golden("mb_bn_b"))
    layer = EntangledBatchNorm(plain, mixture, width)
    with mixture.under(weights={"width": golden("mb_bn_a")}):
        close(layer(golden("mb_dw_x")), golden("mb_bn_y"))
    close(layer.running_mean, golden("mb_bn_rm"))
    close(layer.running_var, golden("mb_bn_rv"))
    x = random(4, 8, 3, 3)
    for training in (True, False):
        layer.train(training)
        small = layer.plain({"width": 8})
        with mixture.under(chosen={"width": 8}):
            assert torch.equal(layer(x), small(x))
        assert torch.equal(layer.running_mean[:8], small.running_mean)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_leaves_inactive_channels_at_zero(affine):
    """In evaluation mode too, where a channel that is zero is not the running mean."""
    mixture, width = Mixture(), Choice("width", (2, 4))
    plain = nn.BatchNorm1d(4, affine=affine)
    plain.running_mean.fill_(1.0)
    layer = EntangledBatchNorm(plain, mixture, width).eval()
    with mixture.under(weights={"width": torch.tensor([1.0, 0.0])}):
        y = layer(torch.zeros(3, 4))
    assert not y[:, 2:].any()
    assert (y[:, :2] < 0).all()


def test_layer_norm_and_embedding_become_plain_ones():
    mixture, width = Mixture(), Choice("width", (8, 4))
    norm = seeded(lambda: nn.LayerNorm(8))
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    norm = EntangledLayerNorm(norm, mixture, width)
    table = EntangledEmbedding(nn.Embedding(5, 8), mixture, width)
    tokens = torch.tensor([[0, 4], [2, 1]])
    for size in width.options:
        plain_table, plain_norm = table.plain({"width": size}), norm.plain({"width": size})
        wanted = plain_norm(plain_table(tokens))
        with mixture.under(chosen={"width": size}):
            assert torch.equal(norm(table(tokens)), wanted)
        hot = torch.eye(2)[width.index(size)]
        with mixture.under(weights={"width": hot}):
            close(norm(table(tokens))[..., :size], wanted)


def test_layers_keep_the_parameters_and_names_of_the_plain_ones():
    plain = nn.Linear(4, 6)
    weight = plain.weight
    layer = EntangledLinear(plain, Mixture(), Choice("out", (2, 6)))
    assert layer.weight is weight
    assert set(layer.state_dict()) == {"weight", "bias"}
    copied = copy.deepcopy(layer)
    assert copied.weight is not weight
    assert copied.mixture is not layer.mixture


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda m: EntangledLinear(nn.Linear(4, 4), m, Choice("w", (2, 8)), name="fc"),
            "layer fc: w asks for 8 outputs, its super-weight has 4",
        ),
        (
            lambda m: EntangledConv2d(nn.Conv2d(1, 1, 5, padding=2), m, kernel=Choice("k", (4, 5))),
            "kernel of 4 does not lie in the centre of one of 5; choose odd sizes",
        ),
        (
            lambda m: EntangledConv2d(nn.Conv2d(1, 1, 5), m, kernel=Choice("k", (3, 5))),
            "with padding 0 a kernel of 3 would give a smaller image than one of 5; pad by at least 1",
        ),
        (
            lambda m: EntangledConv2d(
                nn.Conv2d(1, 1, 5, padding="same"), m, kernel=Choice("k", (3, 5))
            ),
            "padded in numbers",
        ),
        (
            lambda m: EntangledConv2d(nn.Conv2d(4, 4, 1, groups=2), m, Choice("w", (2, 4))),
            "2 groups can choose kernels only",
        ),
        (
            lambda m: EntangledEmbedding(nn.Embedding(4, 4, padding_idx=0), m, Choice("w", (2, 4))),
            "padding_idx",
        ),
    ],
)
def test_what_cannot_be_a_slice_is_refused_with_the_reason(make, words):
    with pytest.raises(RetrofitError, match=words):
        make(Mixture())


def test_a_layer_without_its_super_network_says_so():
    layer = EntangledLinear(nn.Linear(4, 4), Mixture(), Choice("w", (2, 4)))
    with pytest.raises(RetrofitError, match="called on its own"):
        layer(torch.zeros(1, 4))

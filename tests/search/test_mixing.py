"""Operations, depth and attention: order, group weights, and the published code's defects."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from methods.search.choices import Choice, Part
from methods.search.mixing import (
    Attention,
    EntangledAttention,
    EntangledDepth,
    EntangledOps,
    attend,
)
from methods.search.mixture import Mixture
from methods.search.samplers import softmax, sparsemax
from methods.search.spaces import cell
from methods.search.supernet import Supernet, reset
from methods.study.errors import RetrofitError
from tests.search.golden import close, golden, names, random


def published(prefix, repeats, dilation):
    """One pair of operations of the published toy cell, with its weights."""
    mixture = Mixture()
    edge = Choice("edge", (f"{prefix}3", f"{prefix}5"))
    part = Part.of(edge, {f"{prefix}3": 3, f"{prefix}5": 5})
    op = cell.Separable(4, 5, 1, dilation, repeats)
    start = f"{prefix}_sd_op."
    op.layers.load_state_dict({name[len(start) :]: golden(name) for name in names(start)})
    return op.entangle(part, mixture), mixture


@pytest.mark.parametrize(("prefix", "repeats", "dilation"), [("sep", 2, 1), ("dil", 1, 2)])
def test_a_superposed_operation_is_the_published_one(prefix, repeats, dilation):
    op, mixture = published(prefix, repeats, dilation)
    with mixture.under(weights={"edge": golden(f"{prefix}_a")}):
        y = op(golden(f"{prefix}_x"))
    close(y, golden(f"{prefix}_y"), 1e-5)
    # By design not the mixture of outputs: normalisation follows inside.
    assert float((y - golden(f"{prefix}_y_mixture_of_ops")).abs().max().detach()) > 0.3


@pytest.mark.parametrize("order", list(itertools.permutations(("sep3", "dil5", "sep5", "dil3"))))
def test_an_option_runs_the_operation_of_its_name_whatever_the_order(order):
    """In a published space, one-hot on 1x1 runs the 3x3 convolution."""
    mixture, choice = Mixture(), Choice("edge", order)
    edge = reset(cell.edge(choice, 4, 1, mixture), 0)
    x = random(2, 4, 6, 6)
    for option in order:
        net = Supernet(nn.Sequential(edge), {})
        found = net.under_one_hot({"edge": option}, x)
        alone = cell.operation(option, 4, 1)
        depthwise = next(layer for layer in alone.layers if isinstance(layer, nn.Conv2d))
        assert depthwise.kernel_size == (int(option[-1]),) * 2
        part = net.extract({"edge": option})[0]
        alone.load_state_dict(part.state_dict())
        close(found, alone(x), 1e-4)


def test_the_weight_of_a_group_reaches_its_output():
    """As published, without the factor outside, normalisation would take it away."""
    mixture, choice = Mixture(), Choice("edge", cell.OPTIONS)
    edge = reset(cell.edge(choice, 4, 1, mixture), 0)
    x = random(4, 4, 6, 6)

    def output(share, group_weight_outside=True):
        a = torch.tensor([0.3, 0.7, 0.0, 0.0]) * share
        with mixture.under(weights={"edge": a}):
            if group_weight_outside:
                return edge(x)
            part = edge.parts["sep"]
            inside = mixture.inside(part)
            mixture.of = lambda chosen: inside  # what the published code hands over
            try:
                return edge.groups["sep"](x)
            finally:
                del mixture.of

    whole, half = output(1.0), output(0.5)
    close(half, 0.5 * whole, 1e-4)
    whole, half = output(1.0, False), output(0.5, False)
    assert float((half - whole).abs().max().detach()) < 0.05 * float(whole.detach().abs().max())


def test_a_group_without_weight_still_has_a_gradient():
    mixture, choice = Mixture(), Choice("edge", cell.OPTIONS)
    edge = reset(cell.edge(choice, 4, 1, mixture), 0)
    a = torch.tensor([0.0, 1.0, 0.0, 0.0], requires_grad=True)
    with mixture.under(weights={"edge": a}):
        edge(random(2, 4, 6, 6)).square().mean().backward()
    assert torch.isfinite(a.grad).all()
    assert (a.grad != 0).all()


def test_outputs_of_options_can_be_mixed_instead():
    mixture, choice = Mixture(), Choice("edge", ("sep3", "sep5"))
    edge = reset(cell.edge(choice, 4, 1, mixture), 0)
    edge.share("outputs")
    x, a = random(2, 4, 6, 6), torch.tensor([0.4, 0.6])
    with mixture.under(weights={"edge": a}):
        found = edge(x)
    net = Supernet(nn.Sequential(edge), {})
    each = [net.extract({"edge": option}).train()(x) for option in choice.options]
    close(found, 0.4 * each[0] + 0.6 * each[1], 1e-4)


def test_operations_that_no_option_names_are_refused():
    with pytest.raises(RetrofitError, match="operations and options do not match"):
        EntangledOps(Choice("op", ("pool", "skip")), {}, {}, Mixture())


def test_depth_is_the_published_sum_over_blocks():
    """Blocks that add a constant stand for the published activations."""
    x, alpha = golden("depth_x"), golden("depth_alpha")

    class Next(nn.Module):
        def __init__(self, number):
            super().__init__()
            self.number = number

        def forward(self, _):
            return x[self.number]

    mixture, depth = Mixture(), Choice("depth", (1, 2, 3))
    blocks = EntangledDepth(nn.Sequential(*map(Next, range(3))), mixture, depth)
    # The published numbers: sparsemax for DARTS, softmax in evaluation for DrNAS.
    for a, name in ((sparsemax(alpha), "darts"), (softmax(alpha), "drnas")):
        with mixture.under(weights={"depth": a}):
            close(blocks(x[0]), golden(f"depth_y_{name}"))
    assert len(blocks.plain({"depth": 2})) == 2
    with pytest.raises(RetrofitError, match="depth = 4; there are 3 blocks, allowed are 1 to 3"):
        EntangledDepth(blocks.blocks, mixture, Choice("depth", (2, 4)))


def entangled_attention():
    mixture = Mixture()
    width, heads = Choice("width", (8, 16, 24)), Choice("heads", (1, 2, 4))
    attention = reset(Attention(24, 1), 0)
    net = Supernet(nn.Sequential(attention), {"0": {"heads": heads, "width": width}})
    return net, width, heads, mixture


def test_attention_mixes_outputs_of_every_width_and_number_of_heads():
    net, width, heads, _ = entangled_attention()
    layer, x = net.module[0], random(2, 5, 24)
    a = {"width": golden("g_a"), "heads": torch.tensor([0.2, 0.3, 0.5])}
    with net.mixture.under(weights=a):
        found = layer(x)
        q, k, v = layer.q(x), layer.k(x), layer.v(x)
        total = 0.0
        for i, e in enumerate(width.options):
            for j, h in enumerate(heads.options):
                y = attend(q[..., :e], k[..., :e], v[..., :e], h, True)
                total = total + a["width"][i] * a["heads"][j] * functional.pad(y, (0, 24 - e))
        close(found, layer.o(total))


def test_attention_of_a_sub_network_is_the_one_hot_mixture():
    net, width, heads, _ = entangled_attention()
    x = random(2, 5, 24)
    for e, h in itertools.product(width.options, heads.options):
        chosen = {"width": e, "heads": h}
        inactive = torch.cat([x[..., :e], torch.zeros(2, 5, 24 - e)], -1)
        small = net.extract(chosen)[0]
        assert (small.heads, small.q.weight.shape) == (h, (e, e))
        found = net.under_one_hot(chosen, inactive)
        close(found[..., :e], small(x[..., :e]))
        assert not found[..., e:].any()


def test_weights_on_queries_and_keys_would_change_what_is_attended():
    """As published each of q, k, v carries the weight a: logits a squared, for any a below one."""
    q, k, v = (random(1, 4, 8, seed=s) * 3 for s in range(3))
    published = attend(0.5 * q, 0.5 * k, 0.5 * v, 2, True)
    assert float((published - 0.5 * attend(q, k, v, 2, True)).abs().max()) > 0.1


def test_heads_that_do_not_divide_are_refused_with_those_that_do():
    attention = Attention(12, 1)
    with pytest.raises(
        RetrofitError, match=r"8 heads do not divide an embedding of 12.*\[1, 2, 4\]"
    ):
        EntangledAttention(attention, Mixture(), Choice("heads", (2, 8)), Choice("width", (8, 12)))
    with pytest.raises(RetrofitError, match="5 heads do not divide an embedding of 12"):
        Attention(12, 5)

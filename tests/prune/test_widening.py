"""Networks made wider by running them."""

import copy

import pytest
import torch
from torch import nn

from methods.models.networks.residual import Residual
from methods.models.networks.vit import VisionTransformer
from methods.prune.widening import widen
from methods.study.errors import RetrofitError

IMAGE = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Mixed(nn.Module):
    """A concatenation, a depthwise convolution, a flattened image and every kind of norm."""

    def __init__(self, width=6, classes=5):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(1, 2 * width, 1)
        self.depthwise = nn.Conv2d(3 * width, 3 * width, 3, groups=3 * width)
        self.group, self.batch = nn.GroupNorm(3, 3 * width), nn.BatchNorm2d(3 * width)
        self.inner, self.layer = nn.Linear(3 * width * 36, 4 * width), nn.LayerNorm(4 * width)
        self.out = nn.Linear(4 * width, classes)

    def forward(self, x):
        x = torch.cat([self.left(x), self.right(x)], 1)
        x = self.batch(self.group(self.depthwise(x)))
        return torch.log_softmax(self.out(self.layer(self.inner(x.flatten(1)))), 1)


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_whole_factors_give_the_network_that_its_constructor_gives(factor):
    assert shapes(widen(Mixed(), IMAGE, factor)) == shapes(Mixed(6 * factor))
    small, large = Residual(1, 10, 4, 2), Residual(1, 10, 4 * factor, 2)
    assert shapes(widen(small, IMAGE, factor)) == shapes(large)


def test_other_factors_give_a_network_that_runs_forwards_and_backwards():
    model = Residual(1, 10, 8, 1)
    before = copy.deepcopy(model.state_dict())
    wide = widen(model, IMAGE, 2**0.5)
    assert wide.stages[0].conv1.weight.shape == (11, 11, 3, 3)
    assert wide.head.weight.shape == (10, 45)
    wide.train()(IMAGE.expand(4, -1, -1, -1)).sum().backward()
    assert all(p.grad is not None for p in wide.parameters())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_new_weights_have_the_old_spread_for_their_fan_in():
    model = nn.Sequential(nn.Linear(64, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))
    nn.init.zeros_(model[1].weight)
    wide = widen(model, torch.randn(1, 64), 2)
    old, new = ([float(m[i].weight.detach().std()) for i in (0, 3)] for m in (model, wide))
    assert new == pytest.approx([old[0], old[1] / 2**0.5], rel=0.03)
    assert not wide[1].weight.any()  # a branch that began at zero still does
    assert (wide[1].running_var == 1).all()


def test_what_cannot_be_widened_is_refused_with_the_place():
    class Fixed(Mixed):
        def forward(self, x):
            return self.out(self.right(x).mean((2, 3)).view(1, 12).repeat(1, 2))

    with pytest.raises(RetrofitError, match=r"Fixed cannot be widened .* wide=MyNetwork"):
        widen(Fixed(), IMAGE, 2)
    with pytest.raises(RetrofitError, match="Embedding 'embedding' has a parameter 'class_token'"):
        widen(VisionTransformer(1, 10, 8, 4, 24, 1, 2), IMAGE, 2)

"""Stand-ins are the functions that the paper writes, and can be made again from plain values."""

import copy
import json

import pytest
import torch
from torch import nn

from methods.prune.layers import Doped, Factorized, Parallel, described, installed

torch.manual_seed(0)
CONVOLUTION = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
LINEAR = nn.Linear(7, 5)
IMAGES, ROWS = torch.randn(4, 3, 9, 9), torch.randn(4, 2, 7)


def test_parallel_convolutions_are_a_sum_of_normalised_branches():
    stand = Parallel(CONVOLUTION, 3)
    assert stand.stacked.weight.shape == (18, 3, 3, 3)
    expected = 0
    for branch in range(3):
        rows = slice(6 * branch, 6 * branch + 6)
        layer, norm = copy.deepcopy(CONVOLUTION), nn.BatchNorm2d(6)
        layer.weight.data = stand.stacked.weight.data[rows]
        expected = expected + norm(layer(IMAGES))
    torch.testing.assert_close(stand(IMAGES), expected)


def test_parallel_linear_layers_are_a_sum_of_activated_branches():
    stand = Parallel(LINEAR, 4)
    weight, bias = stand.stacked.weight.view(4, 5, 7), stand.stacked.bias.view(4, 5)
    expected = sum((ROWS @ weight[j].T + bias[j]).relu() for j in range(4))
    torch.testing.assert_close(stand(ROWS), expected)


def test_factorized_is_two_products_with_an_activation_between():
    stand = Factorized(CONVOLUTION, 5)
    assert (stand.u.weight.shape, stand.v.weight.shape) == ((5, 3, 3, 3), (6, 5, 1, 1))
    between = nn.BatchNorm2d(5)(stand.u(IMAGES)).relu()
    torch.testing.assert_close(stand(IMAGES), stand.v(between))
    plain = Factorized(LINEAR, 3, "none")
    expected = ROWS @ (plain.v.weight @ plain.u.weight).T + plain.v.bias
    torch.testing.assert_close(plain(ROWS), expected)


@pytest.mark.parametrize(("layer", "x"), [(CONVOLUTION, IMAGES), (LINEAR, ROWS)])
def test_doped_folds_into_one_layer_of_the_old_shape(layer, x):
    stand = Doped(copy.deepcopy(layer), 2)
    folded = stand.folded()
    assert folded.weight.shape == layer.weight.shape
    torch.testing.assert_close(folded(x), stand(x), atol=1e-5, rtol=1e-5)
    assert torch.linalg.matrix_rank((folded.weight - stand.sparse.weight).flatten(1).detach()) == 2


@pytest.mark.parametrize(
    "make", [lambda m: Parallel(m, 2), lambda m: Factorized(m, 2), lambda m: Doped(m, 2)]
)
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, (1, 5), padding="same", padding_mode="reflect"),
        nn.Conv2d(3, 4, 3, 2, 2, dilation=2, bias=False),
    ],
)
def test_shape_stride_and_padding_are_the_layers(make, layer):
    assert make(copy.deepcopy(layer))(IMAGES).shape == layer(IMAGES).shape


def test_one_branch_and_no_rank():
    stand = Parallel(LINEAR, 1, "none")
    torch.testing.assert_close(stand(ROWS), stand.stacked(ROWS))
    with pytest.raises(ValueError, match="without a dense term the layer stays as it is"):
        Doped(LINEAR, 0)


def test_wrong_activations_are_refused():
    with pytest.raises(ValueError, match="linear layers have none"):
        Parallel(LINEAR, 2, "norm")
    with pytest.raises(ValueError, match="allowed are default, none, relu"):
        Factorized(LINEAR, 2, "tanh")


def test_stand_ins_are_made_again_from_plain_values():
    model = nn.Sequential(
        copy.deepcopy(CONVOLUTION), nn.Flatten(), nn.Linear(150, 7), copy.deepcopy(LINEAR)
    )
    plain = copy.deepcopy(model)
    model[0], model[2], model[3] = (
        Parallel(model[0], 2),
        Factorized(model[2], 4),
        Doped(model[3], 1),
    )
    again = installed(plain, json.loads(json.dumps(described(model))))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(IMAGES), model.eval()(IMAGES))

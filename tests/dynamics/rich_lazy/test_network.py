"""The update, the loss and stacked gradients: published numbers, torch's own RNN, and a plain loop."""

import pytest
import torch
from torch.nn import functional

from methods.dynamics.rich_lazy.network import Weights, losses, outputs, states
from tests.dynamics.rich_lazy import golden


def drawn(members=3, size=7, inputs=2, classes=4, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    shapes = (members, size, inputs), (members, size, size), (members, classes, size)
    made = (torch.randn(shape, generator=g, dtype=dtype) * 0.6 for shape in shapes)
    x = torch.randn(members, 5, 6, inputs, generator=g, dtype=dtype)
    return Weights(*made), x


def by_hand(weights, x, alpha, member):
    w_in, w_h, _ = (w[member] for w in weights.tensors())
    h, found = torch.zeros(x.shape[2], w_h.shape[0], dtype=x.dtype), []
    for now in x[member]:
        h = torch.relu((1 - alpha) * h + alpha * (now @ w_in.T + h @ w_h.T))
        found.append(h)
    return torch.stack(found)


@pytest.mark.parametrize("when", ["init", "final"])
def test_states_and_outputs_are_the_published_ones(when):
    suffix = {"init": "0", "final": "f"}[when]
    h = states(golden.weights(when), golden.inputs())
    y = outputs(golden.weights(when), h)
    torch.testing.assert_close(h[0], golden.tensor(f"act{suffix}"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(y[0], golden.tensor(f"out{suffix}"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_stacked_states_are_those_of_a_loop_over_networks(alpha):
    weights, x = drawn()
    h = states(weights, x, alpha)
    for member in range(3):
        torch.testing.assert_close(h[member], by_hand(weights, x, alpha, member))


def test_with_alpha_one_it_is_torchs_rnn():
    weights, x = drawn(members=1)
    peer = torch.nn.RNN(2, 7, nonlinearity="relu", bias=False).double()
    with torch.no_grad():
        peer.weight_ih_l0.copy_(weights.w_in[0])
        peer.weight_hh_l0.copy_(weights.w_h[0])
    torch.testing.assert_close(states(weights, x)[0], peer(x[0])[0])


@pytest.mark.parametrize("read", [5, 1])
def test_each_network_has_its_own_mean_loss_over_the_last_steps(read):
    weights, x = drawn()
    labels = torch.randint(4, (3, read, 6), generator=torch.Generator().manual_seed(1))
    found = losses(weights, states(weights, x), labels)
    for member in range(3):
        y = by_hand(weights, x, 1.0, member)[-read:] @ weights.w_out[member].T
        expected = functional.cross_entropy(y.reshape(-1, 4), labels[member].reshape(-1))
        torch.testing.assert_close(found[member], expected)


def test_gradients_of_the_sum_do_not_mix_networks():
    weights, x = drawn()
    labels = torch.zeros(3, 5, 6, dtype=torch.int64)
    leaf = weights.w_h.clone().requires_grad_()
    stacked = Weights(weights.w_in, leaf, weights.w_out)
    (all_of,) = torch.autograd.grad(losses(stacked, states(stacked, x), labels).sum(), leaf)
    for member in range(3):
        part = slice(member, member + 1)
        alone = weights.w_h[part].clone().requires_grad_()
        single = Weights(weights.w_in[part], alone, weights.w_out[part])
        loss = losses(single, states(single, x[part]), labels[part]).sum()
        torch.testing.assert_close(torch.autograd.grad(loss, alone)[0], all_of[part])

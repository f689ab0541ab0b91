"""The kernel by contractions: published numbers, explicit Jacobians, what it must satisfy, and what it never makes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from methods.dynamics.rich_lazy import measures
from methods.dynamics.rich_lazy.network import Weights, outputs, states
from methods.dynamics.rich_lazy.tangent_kernel import kernel_products, tangent_kernel
from methods.study.errors import RetrofitError
from tests.dynamics.rich_lazy import golden
from tests.dynamics.rich_lazy.test_network import drawn


def jacobian(weights, x, alpha, read, member):
    """d y[t, b, k] / d W_h by autograd, [read * batch * outputs, N * N]."""
    part = slice(member, member + 1)

    def forward(w_h):
        one = Weights(weights.w_in[part], w_h[None], weights.w_out[part])
        return outputs(one, states(one, x[part], alpha))[0, -read:].reshape(-1)

    return torch.func.jacrev(forward)(weights.w_h[member]).flatten(1)


@pytest.mark.parametrize(("when", "kernel"), [("init", "K0"), ("final", "Kf")])
def test_the_kernel_is_the_published_one(when, kernel):
    found = tangent_kernel(golden.weights(when), golden.inputs()[:, :, :8])[0]
    expected = golden.tensor(kernel)
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


def test_the_alignment_is_the_published_one():
    versions = [golden.weights("init"), golden.weights("final")]
    products = kernel_products(versions, golden.inputs()[:, :, :8])
    expected = float(golden.network()["metric/ka"])
    assert float(measures.alignment(products)[0, 0, 1]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("alpha", "read"), [(1.0, 5), (0.4, 5), (1.0, 1), (0.7, 2)])
def test_it_is_jacobian_times_jacobian(alpha, read):
    weights, x = drawn()
    found = tangent_kernel(weights, x, alpha, read)
    for member in range(3):
        j = jacobian(weights, x, alpha, read, member)
        torch.testing.assert_close(found[member], j @ j.T)


def test_one_backward_pass_for_every_output_gives_the_same_kernel():
    weights, x = drawn(members=1)
    leaf = weights.w_h.clone().requires_grad_()
    made = Weights(weights.w_in, leaf, weights.w_out)
    y = outputs(made, states(made, x)).reshape(-1)
    rows = [torch.autograd.grad(value, leaf, retain_graph=True)[0].reshape(-1) for value in y]
    j = torch.stack(rows)
    torch.testing.assert_close(tangent_kernel(weights, x)[0], j @ j.T)


def test_blocks_change_nothing():
    weights, x = drawn()
    other = Weights(weights.w_in, weights.w_h * 1.1, weights.w_out)
    whole = kernel_products([weights, other], x)
    blocks = kernel_products([weights, other], x, block_bytes=1)
    torch.testing.assert_close(blocks, whole)
    kernels = [tangent_kernel(w, x).flatten(1) for w in (weights, other)]
    torch.testing.assert_close(whole[:, 0, 1], (kernels[0] * kernels[1]).sum(1))


def test_it_is_symmetric_and_has_no_negative_eigenvalue():
    weights, x = drawn()
    kernel = tangent_kernel(weights, x)
    torch.testing.assert_close(kernel, kernel.mT)
    values = torch.linalg.eigvalsh(kernel)
    assert (values > -1e-10 * values.max()).all()


def test_alignment_is_one_without_updates_and_within_bounds_with_any():
    weights, x = drawn(members=20)
    other, _ = drawn(members=20, seed=5)
    found = measures.alignment(kernel_products([weights, weights, other], x))
    torch.testing.assert_close(found[:, 0, 1], torch.ones(20, dtype=torch.float64))
    assert (found >= 0).all()
    assert (found <= 1 + 1e-12).all()
    assert found[:, 0, 2].max() < 0.99


def test_a_silent_network_has_alignment_zero():
    weights, x = drawn()
    dead = Weights(torch.zeros_like(weights.w_in), weights.w_h, weights.w_out)
    found = measures.alignment(kernel_products([weights, dead], x))
    assert found[:, 0, 1].tolist() == [0.0, 0.0, 0.0]


def test_nothing_as_large_as_a_jacobian_or_a_kernel_is_ever_made():
    size, batch, outputs_, steps = 80, 24, 3, 5
    g = torch.Generator().manual_seed(0)
    weights = Weights(
        torch.randn(1, size, 2, generator=g),
        torch.randn(1, size, size, generator=g) / size**0.5,
        torch.randn(1, outputs_, size, generator=g),
    )
    x = torch.randn(1, steps, batch, 2, generator=g)
    rows = steps * batch * outputs_

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(out):
                if isinstance(leaf, torch.Tensor) and leaf.is_contiguous():
                    self.numel = max(self.numel, leaf.numel())
            return out

    with Largest() as seen:
        kernel_products([weights, weights], x, block_bytes=100_000)
    assert 0 < seen.numel < rows * rows / 2 < rows * size**2


def test_what_is_not_finite_is_refused():
    weights, x = drawn()
    x[1, 0, 0, 0] = float("nan")
    with pytest.raises(RetrofitError, match="the tangent kernel is not finite"):
        kernel_products([weights, weights], x)

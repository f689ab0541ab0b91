"""Closed form against simulation, an independent simulation's figures, and autograd."""

import numpy as np
import pytest
import torch

from methods.dynamics.rich_lazy import linear_theory as theory
from methods.dynamics.rich_lazy.linear import apply
from methods.dynamics.rich_lazy.params import RichLazyLinear
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.dynamics.rich_lazy import golden

D, H = 10, 20


def simulated(rank, replicates=100, scale=0.01, seed=0):
    rng = np.random.default_rng(seed)
    beta = theory.sphere(replicates, D, rng)
    if rank == "1 aligned":
        w1 = theory.task_aligned(beta, H, scale, rng)
    else:
        w1 = theory.equal_spectrum(replicates, H, D, rank, scale, rng)
    m0 = theory.kernel_matrix(w1, np.zeros((replicates, H)))
    trained = theory.train(w1, beta)
    return beta, m0, trained, theory.alignment(m0, theory.kernel_matrix(trained.w1, trained.w2))


@pytest.mark.parametrize("row", golden.linear(), ids=lambda row: str(row["rank"]))
def test_formula_and_simulation_are_the_independent_ones(row):
    beta, m0, _, ka = simulated(row["rank"])
    if row["rank"] != "1 aligned":
        np.testing.assert_allclose(theory.expected(m0), row["ka_formula"], rtol=1e-9)
    else:
        np.testing.assert_allclose(theory.predicted(m0, beta), row["ka_formula"], rtol=1e-9)
    spread = row.get("ka_sd", 0.0)
    # Two means, of 40 draws there and 100 here.
    assert ka.mean() == pytest.approx(
        row["ka_sim"], abs=4 * spread * np.sqrt(1 / 40 + 1 / 100) + 1e-4
    )
    assert ka.std() == pytest.approx(spread, rel=0.35, abs=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 5, 10, "1 aligned"])
@pytest.mark.parametrize("scale", [0.03, 0.003])
def test_deviations_from_the_closed_form_are_of_order_scale_squared(rank, scale):
    beta, m0, _, ka = simulated(rank, scale=scale)
    assert np.abs(ka - theory.predicted(m0, beta)).max() < scale**2


def test_the_end_is_one_plus_beta_beta():
    beta, _, trained, _ = simulated(5, scale=1e-4)
    m = theory.kernel_matrix(trained.w1, trained.w2)
    expected = np.eye(D) + beta[:, :, None] * beta[:, None, :]
    np.testing.assert_allclose(m, expected, atol=1e-3)
    np.testing.assert_allclose((expected**2).sum((1, 2)), D + 3)
    assert trained.error.max() < 1e-9


def test_the_task_aligned_start_is_lazier_than_random_rank_one_for_every_task():
    *_, aligned = simulated("1 aligned")
    *_, random = simulated(1)
    assert aligned.min() > random.mean()
    assert aligned.mean() == pytest.approx(2 / np.sqrt(D + 3), abs=1e-4)
    assert random.mean() < 1.15 / np.sqrt(D + 3)


def test_the_kernel_is_the_networks():
    g = torch.Generator().manual_seed(0)
    w1, w2, x = (
        torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((4, 3), (4,), (6, 3))
    )
    found = torch.func.jacrev(lambda a, b: x @ (a.T @ b), argnums=(0, 1))(w1, w2)
    j = torch.cat([part.flatten(1) for part in found], 1)
    m = theory.kernel_matrix(w1.numpy()[None], w2.numpy()[None])[0]
    np.testing.assert_allclose(x.numpy() @ m @ x.numpy().T, (j @ j.T).numpy())


def test_the_flow_is_minus_the_gradient():
    g = torch.Generator().manual_seed(1)
    w1, w2, beta = (
        torch.randn(s, generator=g, dtype=torch.float64) for s in ((2, 4, 3), (2, 4), (2, 3))
    )
    w1.requires_grad_(), w2.requires_grad_()
    loss = ((beta - torch.einsum("mhd,mh->md", w1, w2)) ** 2).sum() / 2
    grads = torch.autograd.grad(loss, (w1, w2))
    found = theory.flow(w1.detach().numpy(), w2.detach().numpy(), beta.numpy())
    for ours, theirs in zip(found, grads, strict=True):
        np.testing.assert_allclose(ours, -theirs.numpy())


def test_a_run_reports_simulation_theory_and_exponent():
    found = apply(None, {}, RichLazyLinear(replicates=40), Context()).metrics
    assert found["theory/rank-5"].value == pytest.approx(1.1 * np.sqrt(5 / 13))
    assert abs(found["deviation/rank-5"].value) < 1e-4
    assert found["exponent"].value == pytest.approx(0.5, abs=5 * found["exponent"].stderr)
    assert found["kernel_alignment/rank-10"].stderr == 0.0
    aligned = apply(None, {}, RichLazyLinear(replicates=5, start="aligned"), Context()).metrics
    assert aligned["advantage/aligned"].value == pytest.approx(0.9 / np.sqrt(13), abs=1e-4)


def test_refusals():
    rng = np.random.default_rng(0)
    with pytest.raises(RetrofitError, match="10 inputs and 20 hidden units allow 1 to 10"):
        theory.equal_spectrum(2, H, D, 11, 0.01, rng)
    with pytest.raises(RetrofitError, match="still 1 from its target"):
        theory.train(np.zeros((1, H, D)), theory.sphere(1, D, rng))

"""Gates, densities, sampling and EM: golden arrays, invariants, closed forms."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from methods.mixtures.designs import THREE, TWO, design, from_data, near_truth, repeated
from methods.mixtures.em import Free, em, em_map, gate_bound, gate_derivatives
from methods.mixtures.gates import ACTIVATIONS, Gate, activate, log_gates
from methods.mixtures.mixture import (
    Mixture,
    log_likelihood,
    responsibilities,
    sample,
    weighted_least_squares,
)
from methods.study.errors import RetrofitError

GOLDEN = Path("tests/golden/moe")
CASES = np.load(GOLDEN / "loglik_cases.npz")
MEANS = json.loads((GOLDEN / "loglik_cases.json").read_text())


def t(values):
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


@pytest.fixture
def golden():
    numbers = [CASES[f"true_{name}"] for name in ("beta0", "beta1", "a", "b", "var")]
    beta0, beta1, a, b, v = map(t, numbers)
    return t(CASES["x"])[:, None], t(CASES["y"]), Mixture(beta0, beta1[:, None], a[:, None], b, v)


@pytest.mark.parametrize(
    ("case", "gate", "tau"),
    [
        ("dense", Gate(), None),
        ("top2_v", Gate(2, "slope"), None),
        ("top2_full", Gate(2, "logit"), None),
        ("top1_full", Gate(1, "logit"), None),
        ("dense_tau2", Gate(tempered=True), 2.0),
        ("dense_sigmoid_tau05", Gate(activation="sigmoid", tempered=True), 0.5),
        ("dense_tanh_tau05", Gate(activation="tanh", tempered=True), 0.5),
    ],
)
def test_likelihoods_agree_with_the_reference(golden, case, gate, tau):
    x, y, mixture = golden
    mixture = replace(mixture, tau=None if tau is None else t(tau))
    assert float(log_likelihood(x, y, mixture, gate)) / len(y) == pytest.approx(
        MEANS[case], abs=1e-12
    )


@pytest.mark.parametrize(("case", "ranking"), [("full", "logit"), ("v", "slope")])
def test_responsibilities_agree_with_the_reference(golden, case, ranking):
    x, y, mixture = golden
    r, _ = responsibilities(x, y, mixture, Gate(2, ranking))
    np.testing.assert_allclose(r.numpy(), CASES[f"resp_top2_{case}"], atol=1e-12)
    assert ((r > 0).sum(-1) <= 2).all()
    torch.testing.assert_close(r.sum(-1), torch.ones(len(y), dtype=r.dtype))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_slopes(name):
    score = torch.linspace(-3, 3, 41, dtype=torch.float64) + 0.01
    score.requires_grad_()
    value, slope = activate(score, name)
    torch.testing.assert_close(slope.detach(), torch.autograd.grad(value.sum(), score)[0])
    peer = {
        "identity": lambda s: s,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "gelu": torch.nn.functional.gelu,
    }[name]
    torch.testing.assert_close(value, peer(score))


def test_exactly_k_experts_answer_and_ties_go_to_the_first():
    x = torch.zeros((3, 1), dtype=torch.float64)
    mixture = replace(THREE, beta0=torch.zeros(3, dtype=torch.float64))
    gates = log_gates(x, mixture.beta1, mixture.beta0, Gate(2)).exp()
    assert gates.tolist() == [[0.5, 0.5, 0.0]] * 3


def test_all_active_is_the_dense_gate(golden):
    x, y, mixture = golden
    assert log_likelihood(x, y, mixture, Gate(3)) == log_likelihood(x, y, mixture, Gate())


def test_likelihood_does_not_see_order_or_shifts(golden):
    x, y, m = golden
    gate = Gate(2, "logit")
    before = log_likelihood(x, y, m, gate)
    shifted = replace(m, beta0=m.beta0 + 3.7, beta1=m.beta1 - 1.3)
    torch.testing.assert_close(log_likelihood(x, y, shifted, gate), before)
    order = torch.tensor([2, 0, 1])
    turned = Mixture(*(value[order] for value in (m.beta0, m.beta1, m.a, m.b, m.v)))
    torch.testing.assert_close(log_likelihood(x, y, turned, gate), before)
    torch.testing.assert_close(log_likelihood(x, y, m.canonical(gate), gate), before)


def test_temperature_is_only_a_scale_where_phi_is_the_identity(golden):
    x, y, m = golden

    def likelihood(gate, c):
        scaled = replace(m, beta0=c * m.beta0, beta1=c * m.beta1, tau=t(0.8 * c))
        return float(log_likelihood(x, y, scaled, gate))

    linear, tanh = (Gate(activation=name, tempered=True) for name in ("identity", "tanh"))
    assert likelihood(linear, 3.7) == pytest.approx(likelihood(linear, 1.0), rel=1e-12)
    assert abs(likelihood(tanh, 3.7) - likelihood(tanh, 1.0)) > 1


def density(x, y, beta1, tau, a, b, v):
    """u = exp(beta1 x / tau) N(y; a x + b, v), of the papers' interactions."""
    return (
        torch.exp(beta1 * x / tau)
        * torch.exp(-0.5 * (y - a * x - b) ** 2 / v)
        / (2 * math.pi * v).sqrt()
    )


def derivative(f, *order):
    """d^k f / d(arguments in `order`)."""
    for argument in reversed(order):
        f = torch.func.grad(f, argument)
    return f


@pytest.mark.parametrize("seed", range(3))
def test_the_interactions_that_slow_the_rates(seed):
    rng = np.random.default_rng(seed)
    arguments = tuple(t(value) for value in (*rng.normal(size=3), 0.7, *rng.normal(size=2), 0.4))
    names = {name: i for i, name in enumerate(("x", "y", "beta1", "tau", "a", "b", "v"))}

    def d(*order):
        return float(derivative(density, *(names[n] for n in order))(*arguments))

    tau = 0.7
    assert d("beta1", "b") * tau == pytest.approx(d("a"), rel=1e-9)
    assert d("b", "b") == pytest.approx(2 * d("v"), rel=1e-9)
    assert d("tau") == pytest.approx(-float(arguments[2]) * d("beta1") / tau, rel=1e-9)


def test_weighted_least_squares_is_numpys():
    rng = np.random.default_rng(0)
    x, y, r = rng.normal(size=(50, 2)), rng.normal(size=50), rng.uniform(size=(50, 2))
    start = Mixture(
        torch.zeros(2), torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2), torch.ones(2)
    )
    a, b, v = weighted_least_squares(t(x), t(y), t(r), start)
    for i in range(2):
        w = np.sqrt(r[:, i])
        design = np.column_stack([x, np.ones(50)])
        expected = np.linalg.lstsq(design * w[:, None], y * w, rcond=None)[0]
        np.testing.assert_allclose([*a[i], b[i]], expected, rtol=1e-10)
        residual = y - design @ expected
        assert float(v[i]) == pytest.approx((r[:, i] * residual**2).sum() / r[:, i].sum())


def test_an_expert_without_data_keeps_its_numbers():
    x, y = torch.randn(30, 1, dtype=torch.float64), torch.randn(30, dtype=torch.float64)
    r = torch.zeros(30, 2, dtype=torch.float64)
    r[:, 0] = 1
    start = replace(TWO, a=TWO.a + 1)
    a, b, v = weighted_least_squares(x, y, r, start)
    assert (float(a[1]), float(b[1]), float(v[1])) == (21.0, -5.0, pytest.approx(0.16))
    assert torch.isfinite(a).all()


@pytest.mark.parametrize(
    "gate", [Gate(), Gate(tempered=True), Gate(2, "logit"), Gate(activation="tanh", tempered=True)]
)
def test_the_gates_derivatives_are_those_of_its_bound(golden, gate):
    x, y, m = golden
    m = replace(m, tau=t(0.8) if gate.tempered else None)
    r, _ = responsibilities(x, y, m, gate)
    bound, gradient, hessian = gate_derivatives(x, r, m, gate)
    theta = torch.stack([m.beta1[:, 0], m.beta0], 1).flatten()
    theta = torch.cat([theta, torch.zeros(1, dtype=theta.dtype)])

    def q(theta):
        parts = theta[:-1].view(3, 2)
        tau = None if m.tau is None else m.tau * theta[-1].exp()
        return gate_bound(x, r, replace(m, beta1=parts[:, :1], beta0=parts[:, 1], tau=tau), gate)

    assert float(bound) == pytest.approx(float(q(theta)))
    exact = torch.func.grad(q)(theta)
    kept = slice(None) if gate.tempered else slice(0, -1)
    torch.testing.assert_close(gradient[kept], exact[kept], rtol=1e-8, atol=1e-8)
    if gate.activation == "identity" and not gate.tempered:
        torch.testing.assert_close(
            hessian[:-1, :-1], -torch.func.hessian(q)(theta)[:-1, :-1], rtol=1e-7, atol=1e-7
        )


def test_em_agrees_with_the_reference_and_with_flexmix():
    rows = np.loadtxt(GOLDEN / "dense_n1000.csv", delimiter=",", skiprows=1)
    reference = json.loads((GOLDEN / "dense_n1000_em.json").read_text())
    flexmix = json.loads((GOLDEN / "dense_n1000_flexmix.json").read_text())
    x, y = t(rows[:, :1])[None], t(rows[:, 1])[None]
    fit = em(x, y, repeated(TWO, 1), Gate(), tolerance=1e-10)
    found = fit.mixture[0].canonical(Gate())
    assert fit.converged.all()
    assert float(fit.log_likelihood) == pytest.approx(reference["loglik"], abs=1e-5)
    assert float(fit.log_likelihood) > flexmix["loglik"] - 1e-3
    for name, value in (("a", found.a[:, 0]), ("b", found.b), ("var", found.v)):
        np.testing.assert_allclose(value, reference[name], rtol=2e-5)
    assert float(found.beta0[0]) == pytest.approx(reference["beta0"][0], rel=1e-3)
    assert float(found.beta1[0, 0]) == pytest.approx(reference["beta1"][0], rel=1e-3)
    np.testing.assert_allclose(
        [found.b.tolist(), found.a[:, 0].tolist()], flexmix["par"][:2], rtol=1e-3
    )


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize(
    ("name", "activation"),
    [("dense-2", "identity"), ("temperature-2", "tanh"), ("top2-3", "identity")],
)
def test_em_never_lowers_the_likelihood(name, activation, accelerate):
    found = design(name, activation)
    generator = torch.Generator().manual_seed(0)
    x = found.x((4, 300), generator)
    y = sample(x, found.batch(4), found.gate, generator)
    start = near_truth(found, found.truth.experts + 1, 300, 4, generator)
    likelihoods = [log_likelihood(x, y, start, found.gate)]
    for iterations in (3, 6, 12, 24):
        fit = em(
            x, y, start, found.gate, iterations=iterations, tolerance=0.0, accelerate=accelerate
        )
        likelihoods.append(fit.log_likelihood)
        torch.testing.assert_close(
            log_likelihood(x, y, fit.mixture, found.gate), fit.log_likelihood
        )
    assert (torch.stack(likelihoods).diff(dim=0) >= -1e-9).all()


def test_acceleration_ends_where_em_does_and_sooner():
    generator = torch.Generator().manual_seed(1)
    found = design("dense-2")
    x = found.x((3, 400), generator)
    y = sample(x, found.batch(3), found.gate, generator)
    start = from_data(
        x, y, 2, found.gate, 1, [torch.Generator().manual_seed(i) for i in range(3)], short=0
    )
    plain, quick = (
        em(x, y, start, Gate(), tolerance=1e-9, accelerate=how) for how in (False, True)
    )
    torch.testing.assert_close(plain.log_likelihood, quick.log_likelihood, atol=1e-5, rtol=0)


def test_a_batch_is_its_data_sets_one_by_one():
    generator = torch.Generator().manual_seed(2)
    found = design("top2-3")
    x = found.x((5, 200), generator)
    y = sample(x, found.batch(5), found.gate, generator)
    start = near_truth(found, 3, 200, 5, generator)
    together = em(x, y, start, found.gate)
    for i in range(5):
        alone = em(x[i : i + 1], y[i : i + 1], start[i : i + 1], found.gate)
        torch.testing.assert_close(alone.log_likelihood[0], together.log_likelihood[i])
        assert int(alone.iterations[0]) == int(together.iterations[i])


def test_samples_come_from_the_density():
    generator = torch.Generator().manual_seed(3)
    x = torch.full((200_000, 1), 0.3, dtype=torch.float64)
    y = sample(x, THREE, Gate(2), generator)
    gates = log_gates(x[:1], THREE.beta1, THREE.beta0, Gate(2)).exp()[0]
    means = THREE.a[:, 0] * 0.3 + THREE.b
    expected = (gates * means).sum()
    second = (gates * (THREE.v + means.square())).sum()
    deviation = math.sqrt(float(second - expected**2) / len(y))
    assert abs(float(y.mean() - expected)) < 4 * deviation


def test_one_active_expert_leaves_the_gate_where_it_is():
    assert not Free.of(Gate(1, "logit"), 3).beta1.any()
    generator = torch.Generator().manual_seed(4)
    found = design("top1-2")
    x = found.x((1, 100), generator)
    y = sample(x, found.batch(1), found.gate, generator)
    start = repeated(replace(TWO, beta0=TWO.beta0 + 1), 1)
    r, _ = responsibilities(x, y, start, found.gate)
    after = em_map(x, y, r, start, found.gate, Free.of(found.gate, 2))
    assert torch.equal(after.beta0, start.beta0)
    _, gradient, _ = gate_derivatives(x, r, start, found.gate)
    assert gradient.abs().max() == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gate(4).check(3), "active 4: there are 3 experts"),
        (lambda: Gate(0), "active 0"),
        (lambda: Gate(activation="tahn"), "did you mean 'tanh'"),
        (lambda: Gate(ranking="slop"), "ranking 'slop': allowed: slope, logit"),
    ],
)
def test_gates_that_cannot_be(make, words):
    with pytest.raises(RetrofitError, match=words):
        make()

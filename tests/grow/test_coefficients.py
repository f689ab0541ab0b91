"""The policies for the new blocks: what the published code gives, and what each must be."""

import pytest
import torch

from methods.grow import coefficients
from methods.grow.coefficients import POLICIES, least_aligned
from tests.grow import golden


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def start(t, sets):
    return golden.alphas(f"conv_T{t}_s{sets}_none"), [int(s) for s in sets]


@pytest.mark.parametrize(("t", "sets"), golden.LAYOUTS)
@pytest.mark.parametrize("policy", ["none", "zero", "published_code"])
def test_policies_without_chance_are_the_published_ones(t, sets, policy):
    alphas, which = start(t, sets)
    found = POLICIES[policy](alphas, which, 1.0, None)
    name = "orthogonal" if policy == "published_code" else policy
    published = [golden.tensor(f"conv_T{t}_s{sets}_{name}_coef{i}") for i in range(4)]
    if policy == "published_code" and t == 6:
        # Three dimensions are left, and which of their bases LAPACK gives is its own affair.
        before = torch.stack(published[:3])
        assert (before @ found[3]).abs().max() < 1e-6
        assert float(found[3].norm()) == pytest.approx(1)
        found, published = found[:3], published[:3]
    for ours, theirs in zip(found, published, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sets", ["0101", "0110"])
@pytest.mark.parametrize("t", [2, 4, 6])
def test_copies_are_shifted_by_one_positive_direction_of_the_noise_length(t, sets):
    alphas, which = start(t, sets)
    source = {2: which.index(which[2]), 3: which.index(which[3])}
    published = [golden.tensor(f"conv_T{t}_s{sets}_copy_coef{i}") for i in range(4)]
    ours = coefficients.copy(alphas, which, 1.0, generator())
    for found in (published, ours):
        shifts = [found[i] - alphas[source[i]] for i in (2, 3)]
        torch.testing.assert_close(shifts[0], shifts[1], atol=1e-6, rtol=0)
        assert (shifts[0] > 0).all()
        assert float(shifts[0].norm()) == pytest.approx(1, abs=1e-5)
    exact = coefficients.copy(alphas, which, 0.0, generator())
    assert all(torch.equal(exact[i], alphas[source[i]]) for i in (2, 3))


def test_random_is_uniform_up_to_the_noise():
    alphas = [torch.randn(500) for _ in range(4)]
    found = coefficients.random(alphas, [0, 1, 0, 1], 0.5, generator())
    values = torch.cat(found[2:])
    assert 0 <= values.min() < 0.01
    assert 0.49 < values.max() < 0.5
    assert float(values.mean()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("policy", POLICIES)
def test_trained_members_are_handed_through(policy):
    alphas, which = start(4, "0101")
    found = POLICIES[policy](alphas, which, 1.0, generator())
    assert all(torch.equal(a, b) for a, b in zip(found[:2], alphas[:2], strict=True))


@pytest.mark.parametrize(("t", "sets"), [(2, "0101"), (2, "0110"), (4, "0000"), (6, "0101")])
def test_orthogonal_is_at_right_angles_to_every_member_of_its_set(t, sets):
    alphas, which = start(t, sets)
    found = coefficients.orthogonal(alphas, which, 1.0, None)
    for i in (2, 3):
        others = [found[j] for j in range(i) if which[j] == which[i]]
        assert all(abs(float(found[i] @ other)) < 1e-6 for other in others)
        mean = sum(float(other.norm()) for other in others) / len(others)
        assert float(found[i].norm()) == pytest.approx(mean, rel=1e-5)


def test_the_published_orthogonal_is_not_with_two_templates():
    """Defect: alpha_3 alone is set, and to something that lies along what it should avoid."""
    alphas, which = start(2, "0101")
    published = POLICIES["published_code"](alphas, which, 1.0, None)

    def cosine(a, b):
        return abs(float(a @ b / (a.norm() * b.norm())))

    assert torch.equal(published[2], alphas[2])
    assert cosine(published[3], published[1]) > 0.8
    ours = coefficients.orthogonal(alphas, which, 1.0, None)
    assert cosine(ours[3], ours[1]) < 1e-6


def test_sets_of_unequal_size_fail_as_published_and_are_handled_here():
    """Defect: the shipped bank has sets of 4 and 3 templates, on which the default policy raises."""
    alphas = [torch.randn(n, generator=generator(n)) for n in (4, 3, 4, 3)]
    with pytest.raises(ValueError, match=r"stacks coefficients of \[4, 3, 4, 3\]"):
        coefficients.published_code(alphas, [0, 1, 0, 1], 1.0, None)
    found = coefficients.orthogonal(alphas, [0, 1, 0, 1], 1.0, None)
    assert abs(float(found[2] @ found[0])) < 1e-6
    assert abs(float(found[3] @ found[1])) < 1e-6
    shifts = coefficients.copy(alphas, [0, 1, 0, 1], 1.0, generator())
    assert [len(a) for a in shifts] == [4, 3, 4, 3]


def test_where_no_right_angle_is_left_the_least_aligned_direction_is_taken():
    others = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, -0.1]])
    u = least_aligned(others)
    assert abs(float(u[1])) == pytest.approx(1, abs=1e-5)
    angles = torch.linspace(0, 3.1416, 500)
    around = torch.stack([angles.cos(), angles.sin()])
    unit = others / others.norm(dim=1, keepdim=True)
    best = (unit @ around).square().sum(0).min()
    assert float((unit @ u).square().sum()) <= float(best) + 1e-6


def test_nothing_to_copy_is_said():
    alphas = [torch.ones(2)] * 4
    with pytest.raises(ValueError, match=r"shares its templates .* with no trained member"):
        coefficients.copy(alphas, [0, 1, 2, 2], 0.0, generator())

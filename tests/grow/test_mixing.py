"""Mixtures and the grown weight, against the published code and closed forms."""

import pytest
import torch

from methods.grow.mixing import (
    assemble,
    fresh_coefficients,
    fresh_templates,
    mix,
    template_deviation,
)
from tests.grow import golden

POLICIES = ("none", "zero", "copy", "orthogonal", "random")


@pytest.mark.parametrize(("t", "sets"), golden.LAYOUTS)
def test_members_and_grown_weights_are_the_published_ones(t, sets):
    prefix = f"conv_T{t}_s{sets}"
    banks = golden.templates(f"{prefix}_none")
    which = [int(s) for s in sets]
    start = [mix(a, banks[s]) for a, s in zip(golden.alphas(f"{prefix}_none"), which, strict=True)]
    for i in (0, 1):
        torch.testing.assert_close(
            start[i], golden.tensor(f"{prefix}_none_W{i}"), atol=1e-7, rtol=0
        )
    seen = 0
    for policy in POLICIES:
        if not golden.has(f"{prefix}_{policy}_Wfull"):
            continue
        alphas = [golden.tensor(f"{prefix}_{policy}_coef{i}") for i in range(4)]
        weights = [mix(a, banks[s]) for a, s in zip(alphas, which, strict=True)]
        grown = assemble(weights, rows=True, columns=True)
        torch.testing.assert_close(
            grown, golden.tensor(f"{prefix}_{policy}_Wfull"), atol=1e-7, rtol=0
        )
        seen += 1
    assert seen >= 4


@pytest.mark.parametrize(("layer", "rows"), [("stem", True), ("fc", False)])
def test_a_first_layer_stacks_and_a_classifier_lies_side_by_side(layer, rows):
    weights = [
        mix(a, bank)
        for a, bank in zip(golden.alphas(layer, 2), golden.templates(layer), strict=True)
    ]
    grown = assemble(weights, rows=rows, columns=not rows)
    torch.testing.assert_close(grown, golden.tensor(f"{layer}_Wfull"), atol=1e-7, rtol=0)


def test_the_trained_members_are_the_diagonal_to_the_bit():
    w = [torch.randn(6, 4, 3, 3) for _ in range(4)]
    grown = assemble(w, rows=True, columns=True)
    assert torch.equal(grown[:6, :4], w[0])
    assert torch.equal(grown[6:, 4:], w[1])
    assert torch.equal(grown[:6, 4:], w[2])
    assert torch.equal(grown[6:, :4], w[3])
    with pytest.raises(ValueError, match="neither inputs nor outputs"):
        assemble(w, rows=False, columns=False)


def test_fresh_members_start_with_the_variance_of_their_layer():
    generator = torch.Generator().manual_seed(0)
    shape = (64, 32, 3, 3)
    alphas = fresh_coefficients([0, 1, 0, 1], [2, 3], generator)
    assert [len(a) for a in alphas] == [2, 3, 2, 3]
    for a in alphas:
        torch.testing.assert_close(a.norm(), torch.tensor(1.0))
    assert abs(alphas[0] @ alphas[2]) < 1e-6
    assert abs(alphas[1] @ alphas[3]) < 1e-6
    weight = mix(alphas[0], fresh_templates(2, shape, generator))
    assert float(weight.std()) == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.02)


def test_one_set_for_more_members_than_it_has_templates_still_gives_unit_rows():
    alphas = fresh_coefficients([0, 0, 0, 0], [2], torch.Generator().manual_seed(0))
    assert all(abs(float(a.norm()) - 1) < 1e-6 for a in alphas)


def test_the_published_start_is_too_small_twice():
    """Defects: fan-in of the whole stack, and rows of a matrix with orthonormal columns."""
    shape = (8, 6, 3, 3)
    assert template_deviation(shape) == pytest.approx(0.1925, abs=1e-4)
    published = template_deviation(shape, "published_code")
    assert published == pytest.approx(template_deviation(shape) / 8**0.5)
    stack = torch.nn.init.kaiming_normal_(torch.empty(50, *shape))
    assert float(stack.std()) == pytest.approx(published, rel=0.02)
    rows = torch.stack(
        fresh_coefficients([0, 1, 0, 1], [2, 2], torch.Generator().manual_seed(0), "published_code")
    )
    torch.testing.assert_close(rows.T @ rows, torch.eye(2))
    assert float(rows.square().sum(1).mean()) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="equal counts"):
        fresh_coefficients([0, 1, 0, 1], [4, 3], torch.Generator(), "published_code")

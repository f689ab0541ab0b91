"""The losses of HMoDE: definitions by hand, and the published slips."""

import pytest
import torch

from methods.counting import losses
from methods.counting.losses import Output


def maps(seed, n=2, h=64, w=48):
    return torch.rand(n, 1, h, w, generator=torch.Generator().manual_seed(seed))


def brute_relative(predicted, true, patch=16, hardest=9):
    """The published function, patch by patch, in plain numbers."""
    total = 0.0
    for p, t in zip(predicted[:, 0], true[:, 0], strict=True):
        found = []
        for top in range(0, p.shape[0] - patch + 1, patch):
            for left in range(0, p.shape[1] - patch + 1, patch):
                a, b = (m[top : top + patch, left : left + patch] for m in (p, t))
                found.append((float(((a - b) ** 2).sum()), float(a.sum()), float(b.sum())))
        found = sorted(found, reverse=True)[:hardest]
        total += sum(error for error, _, _ in found)
        x = [count for _, count, _ in sorted(found, key=lambda entry: -entry[2])]
        for j in range(hardest // 3):
            one, two, three = x[j], x[j + hardest // 3], x[j + 2 * hardest // 3]
            total += max(0, two - one) + max(0, three - one) + max(0, three - two)
    return total


@pytest.mark.parametrize(("size", "hardest"), [((64, 48), 9), ((70, 100), 9), ((64, 48), 6)])
def test_the_relative_loss_is_the_published_function(size, hardest):
    predicted, true = maps(0, 3, *size), maps(1, 3, *size)
    found = losses.relative_error(predicted, true, hardest=hardest)
    assert float(found) == pytest.approx(brute_relative(predicted, true, hardest=hardest), rel=1e-5)


def test_ranks_cost_nothing_when_ordered_and_only_differences_count():
    ordered = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3, 2, 1]])
    assert losses.misordered(ordered) == 0
    swapped = ordered[:, [3, 1, 2, 0, 4, 5, 6, 7, 8]]
    assert losses.misordered(swapped) == 3
    assert losses.misordered(swapped + 100) == 3
    assert losses.misordered(ordered.flip(1)) == 3 * (3 + 6 + 3)


def test_the_truth_gets_no_gradient_and_the_prediction_does():
    predicted, true = maps(0).requires_grad_(), maps(1).requires_grad_()
    gradient = torch.autograd.grad(losses.relative_error(predicted, true.detach()), predicted)[0]
    assert gradient.abs().sum() > 0


def test_an_image_with_too_few_patches_is_refused():
    with pytest.raises(
        ValueError, match="has 8 patches of 16 pixels; the relative loss compares 9"
    ):
        losses.relative_error(maps(0, 1, 32, 64), maps(1, 1, 32, 64))


def test_local_counts_sum_to_the_count():
    density = maps(3)
    assert torch.allclose(losses.local_counts(density, 16).sum(1), density.sum((1, 2, 3)))


def test_importance_is_zero_for_equal_shares_and_the_squared_variation_otherwise():
    half = torch.full((2, 2, 3, 3), 0.5)
    assert losses.importance([half, half]) == 0
    shares = torch.tensor([0.75, 0.25]).view(1, 2, 1, 1).expand(2, 2, 3, 3)
    mass = torch.tensor([13.5, 4.5])
    expected = mass.var() / mass.mean() ** 2
    assert float(losses.importance([shares, half])) == pytest.approx(float(expected), rel=1e-5)


def test_attention_is_cross_entropy_against_where_there_is_density():
    true = torch.tensor([[[[0.0, 0.5], [2e-3, 5e-4]]]])
    attention = torch.tensor([[[[0.2, 0.9], [0.6, 0.3]]]])
    expected = torch.nn.functional.binary_cross_entropy(
        attention, torch.tensor([[[[0.0, 1], [1, 0]]]]), reduction="sum"
    )
    assert torch.allclose(losses.attention_error(attention, true, 1e-3), expected)


def output(n, seed=5):
    attention = maps(seed + 9, n).clamp(0.05, 0.95)
    return Output([maps(seed + i, n) for i in range(7)], [0, 0, 0, 1, 1, 1, 2], [], attention)


def test_levels_weigh_one_two_four():
    true, found = maps(50), output(2)
    by_hand = sum(
        weight * ((m - true) ** 2).sum() / 2
        for weight, m in zip((1, 1, 1, 2, 2, 2, 4), found.maps, strict=True)
    )
    terms = losses.total(found, true)
    assert torch.allclose(terms["density"], by_hand)
    relative = sum(
        weight * losses.relative_error(m, true) / 2
        for weight, m in zip((1, 1, 1, 2, 2, 2, 4), found.maps, strict=True)
    )
    assert torch.allclose(terms["relative"], relative)
    assert torch.allclose(terms["loss"], sum(v for k, v in terms.items() if k != "loss"))


def test_a_batch_is_the_mean_of_its_images():
    true, found = maps(50), output(2)
    singles = [
        losses.total(
            Output(
                [m[i : i + 1] for m in found.maps], found.levels, [], found.attention[i : i + 1]
            ),
            true[i : i + 1],
        )
        for i in range(2)
    ]
    both = losses.total(found, true)
    for term in both:
        assert torch.allclose(both[term], (singles[0][term] + singles[1][term]) / 2)
    # the published comparison, [b, 1, h, w] with [b, h, w], is not that mean, and is refused here
    published = ((found.maps[-1] - true[:, 0]) ** 2).sum()
    assert published > 1.5 * losses.squared_error(found.maps[-1], true)
    with pytest.raises(ValueError, match=r"\(2, 1, 64, 48\) against one of \(2, 64, 48\)"):
        losses.squared_error(found.maps[-1], true[:, 0])


def test_the_published_index_would_explode():
    batches = 300
    assert [losses.level_weight(level) for level in (0, 1, 2)] == [1, 2, 4]
    assert losses.level_weight(batches // 3) > 1e30


def test_terms_of_weight_nothing_are_left_out():
    terms = losses.total(output(2), maps(50), relative=0, attention_weight=0)
    assert set(terms) == {"density", "loss"}
    halved = losses.total(output(2), maps(50), relative=0.5)
    assert torch.allclose(
        halved["loss"], halved["density"] + 0.5 * halved["relative"] + halved["attention"]
    )

"""Gates and mixtures."""

import torch

from methods.counting import mixture


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_gates_are_shares_and_rectified_ones_never_exclude():
    logits = draw(2, 3, 4, 5) * 5
    for rectified in (True, False):
        shares = mixture.gate(logits, rectified)
        assert torch.allclose(shares.sum(1), torch.ones(2, 4, 5))
        assert shares.min() >= 0
    negative = -logits.abs()
    assert torch.allclose(mixture.gate(negative), torch.full((2, 3, 4, 5), 1 / 3))
    assert not torch.allclose(
        mixture.gate(negative, rectified=False), torch.full((2, 3, 4, 5), 1 / 3)
    )


def test_groups_lie_between_their_experts_and_the_mixture_in_the_hull_of_all():
    experts = [draw(2, 1, 4, 5, seed=i).abs() for i in range(3)]
    groups, shares = mixture.grouped(experts, draw(2, 6, 4, 5, seed=9))
    assert len(groups) == len(shares) == 3
    for (i, j), group in zip(mixture.PAIRS, groups, strict=True):
        low, high = torch.minimum(experts[i], experts[j]), torch.maximum(experts[i], experts[j])
        assert ((group >= low - 1e-6) & (group <= high + 1e-6)).all()
    both = mixture.mix(groups, mixture.gate(draw(2, 3, 4, 5, seed=11)))
    every = torch.stack(experts)
    assert ((both >= every.amin(0) - 1e-6) & (both <= every.amax(0) + 1e-6)).all()


def test_every_expert_competes_in_two_groups():
    members = [i for pair in mixture.PAIRS for i in pair]
    assert sorted(members) == [0, 0, 1, 1, 2, 2]


def test_pixels_have_gates_of_their_own():
    experts = [torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)]
    logits = torch.tensor([[[[9.0, 0.0]] * 2, [[0.0, 9.0]] * 2]])
    found = mixture.mix(experts, mixture.gate(logits))
    assert (found[..., 0] < 0.001).all()
    assert (found[..., 1] > 0.999).all()


def test_upsampling_repeats_and_does_not_divide():
    x = torch.tensor([[[[1.0, 2.0]]]])
    assert mixture.nearest(x, (2, 4)).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]

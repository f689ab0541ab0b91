"""Voronoi losses and the Hellinger distance: by hand, by invariance, against one-line forms."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from methods.mixtures.designs import TEMPERED, THREE, TWO, design
from methods.mixtures.gates import Gate
from methods.mixtures.losses import active_needed, cells, hellinger, referred, voronoi_loss
from methods.mixtures.mixture import Mixture
from methods.mixtures.splitting import split


def batch(m: Mixture) -> Mixture:
    return Mixture(*(None if value is None else value[None] for value in vars(m).values()))


def turned(m: Mixture, order) -> Mixture:
    index = torch.tensor(order)
    return replace(m, **{n: getattr(m, n)[index] for n in ("beta0", "beta1", "a", "b", "v")})


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_truth_in_any_order_and_shift_has_no_loss(order):
    moved = replace(turned(THREE, order), beta0=turned(THREE, order).beta0 + 2)
    moved = replace(moved, beta1=moved.beta1 - 5)
    found = referred(batch(moved), batch(THREE), Gate(2))
    assert float(voronoi_loss(found, batch(THREE), 2)) == pytest.approx(0, abs=1e-12)


def test_a_loss_by_hand():
    near = replace(TWO, a=TWO.a + 0.1, v=TWO.v + 0.01)
    expected = (math.exp(-8) + 1) * (0.1 + 0.01)
    assert float(voronoi_loss(batch(near), batch(TWO))) == pytest.approx(expected)
    # K = 1: the larger of the two parts
    assert float(voronoi_loss(batch(near), batch(TWO), 1)) == pytest.approx(0.11)


def test_two_atoms_in_one_cell_both_count():
    both = turned(TWO, [1, 1])
    both = replace(both, beta0=torch.tensor([math.log(0.5)] * 2, dtype=torch.float64))
    both = replace(both, b=both.b + torch.tensor([0.1, -0.2], dtype=torch.float64))
    found = batch(both)
    assert cells(found, batch(TWO)).tolist() == [[1, 1]]
    # half of the mass each; the other true atom is missed with all its mass
    expected = 0.5 * (0.1 + 0.2) + math.exp(-8)
    assert float(voronoi_loss(found, batch(TWO))) == pytest.approx(expected)
    over = 0.5 * (0.1**4 + 0.2**4) + math.exp(-8)
    assert float(voronoi_loss(found, batch(TWO), over=True)) == pytest.approx(over)


def test_powers_of_an_over_fitted_cell():
    parts = batch(split(design("top2-3"), 2, 0.01))
    found = float(voronoi_loss(parts, batch(THREE), over=True))
    # beta1, b to the 4th, a, v squared; the masses add up exactly but for the spread of beta0
    mass = math.exp(0.5)
    expected = mass * math.cosh(0.01) * (2 * 0.01**4 + 2 * 0.01**2) + mass * (math.cosh(0.01) - 1)
    assert found == pytest.approx(expected, rel=1e-4)


def test_temperature_enters_weights_and_loss():
    warmer = replace(TEMPERED, tau=TEMPERED.tau + 0.1)
    found = float(voronoi_loss(batch(warmer), batch(TEMPERED)))
    weights = math.exp(0.3 / 0.9) + 1
    assert found == pytest.approx(weights * 0.1 + abs(math.exp(0.3 / 0.9) - math.exp(0.3 / 0.8)))


def test_hellinger_of_two_normals_in_closed_form():
    one = Mixture(
        *(torch.zeros(1), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1), torch.ones(1))
    )
    one = Mixture(*(value.double() for value in list(vars(one).values())[:5]))
    other = replace(one, b=one.b + 1.5, v=one.v * 4)
    x = torch.zeros((1, 1), dtype=torch.float64)
    expected = 1 - math.sqrt(2 * 2 / (1 + 4)) * math.exp(-0.25 * 1.5**2 / 5)
    found = hellinger(x, batch(one), Gate(), batch(other), Gate())
    assert float(found) == pytest.approx(math.sqrt(expected), rel=1e-3)
    assert float(hellinger(x, batch(one), Gate(), batch(one), Gate())) == 0


def test_how_many_have_to_answer():
    for pieces, needed in ((1, 2), (2, 3), (3, 4)):
        parts = batch(split(design("top2-3"), pieces, 0.001))
        assert int(active_needed(parts, batch(THREE), 2)) == needed


def test_too_few_active_experts_stay_away_from_the_truth():
    x = torch.linspace(-1, 1, 100, dtype=torch.float64)[:, None]
    apart = [
        float(hellinger(x, batch(split(design("top2-3"), 2, d)), Gate(2), batch(THREE), Gate(2)))
        for d in (0.01, 1e-4)
    ]
    assert apart[1] == pytest.approx(apart[0], rel=0.01)
    assert apart[1] > 0.1

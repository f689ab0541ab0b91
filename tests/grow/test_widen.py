"""Net2Net and LEMON keep the function; the published baseline does not."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from methods.grow.widen import equal_shares, unequal_shares, unit_mapping, widen, widen_weight
from methods.models.networks.fully_connected import FullyConnected
from methods.models.networks.residual import Residual
from methods.models.networks.wide_residual import WideResidual
from methods.study.errors import RetrofitError

X = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MAKERS = {
    "wide": lambda w: WideResidual(1, 10, w, 2, w),
    "residual": lambda w: Residual(1, 10, w, 2),
    "fully connected": lambda w: FullyConnected(64, 10, w, 3),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def trained(network, steps=3):
    """A few updates, so that statistics and shifts are not those of a fresh network."""
    y = torch.arange(16) % 10
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(network.train()(X), y).backward()
        optimizer.step()
    return network


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("rule", ["net2net", "lemon"])
@pytest.mark.parametrize("wide", [10, 7, 5])
def test_the_function_is_kept_in_training_and_in_evaluation(name, rule, wide):
    """Also where the width does not double (7), is odd, or does not grow at all (5)."""
    narrow = trained(MAKERS[name](5))
    grown = widen(narrow, MAKERS[name](wide), rule, generator(), example=X)
    for mode in (False, True):
        with torch.no_grad():
            before, after = narrow.train(mode)(X), grown.train(mode)(X)
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_shares_sum_to_one_over_the_copies_of_each_unit():
    g = unit_mapping(5, 13, generator())
    assert torch.equal(g[:5], torch.arange(5))
    onehot = torch.nn.functional.one_hot(g, 5).float()
    torch.testing.assert_close(equal_shares(g) @ onehot, torch.ones(5))
    shares = unequal_shares(7, g, generator())
    torch.testing.assert_close(shares @ onehot, torch.ones(7, 5))
    assert (shares > 0).all()
    copies = [torch.nonzero(g == unit).flatten() for unit in range(5)]
    pair = next(c for c in copies if len(c) > 1)
    assert (shares[:, pair[0]] != shares[:, pair[1]]).all()
    assert torch.equal(unit_mapping(3, 6), torch.tensor([0, 1, 2, 0, 1, 2]))
    with pytest.raises(ValueError, match="5 units cannot become 4"):
        unit_mapping(5, 4)


def test_a_widened_layer_computes_the_narrow_one():
    w, x = torch.randn(3, 4), torch.randn(4)
    rows, columns = unit_mapping(3, 5, generator(1)), unit_mapping(4, 9, generator(2))
    wide = widen_weight(w, rows, columns, equal_shares(columns))
    torch.testing.assert_close(wide @ x[columns], (w @ x)[rows])


def gap_between_copies(rule, noise=0.0):
    """How far the two copies of the first hidden unit are apart after one update."""
    torch.manual_seed(0)
    narrow = trained(FullyConnected(64, 10, 6, 2))
    wide = widen(narrow, FullyConnected(64, 10, 12, 2), rule, generator(), noise=noise)
    g = unit_mapping(6, 12, generator()) if rule == "net2net" else unit_mapping(6, 12)
    counts = torch.bincount(g)
    unit = int(torch.nonzero(counts == 2)[0]) if (counts == 2).any() else int(counts.argmax())
    one, other = torch.nonzero(g == unit).flatten()[:2]
    trained(wide, 1)
    first = wide.features[0].weight.detach()
    return float((first[one] - first[other]).norm() / first[one].norm())


def test_unequal_shares_part_copies_and_equal_ones_never_do():
    assert gap_between_copies("net2net") < 1e-6
    assert gap_between_copies("net2net", noise=0.01) > 1e-3
    assert gap_between_copies("lemon") > 1e-4


def test_random_growth_keeps_the_trained_corner_and_draws_the_rest():
    narrow, fresh = trained(MAKERS["wide"](4)), MAKERS["wide"](8)
    drawn = fresh.stages[1].conv2.weight.detach().clone()
    grown = widen(narrow, fresh, "random", generator(), example=X)
    old = narrow.stages[1].conv2.weight
    new = grown.stages[1].conv2.weight
    size = old.shape[0]
    assert torch.equal(new[:size, :size], old)
    assert torch.equal(new[size:], drawn[size:])
    assert torch.equal(new[:size, size:], drawn[:size, size:])
    mean = grown.stages[1].norm1.running_mean
    assert torch.equal(mean[:size], narrow.stages[1].norm1.running_mean)
    assert (mean[size:] == 0).all()


def relative_change(before, after):
    return float((after - before).abs().max() / before.abs().max())


def test_the_published_baseline_starts_from_another_function():
    """Defects: a mapping for each layer across additions, and normalised copies."""
    narrow = trained(MAKERS["wide"](4)).eval()
    wide = widen(narrow, MAKERS["wide"](8), "net2net", generator()).eval()
    with torch.no_grad():
        before = narrow(X)
        assert relative_change(before, wide(X)) < 1e-4
        second = wide.stages[1].conv2
        second.weight.copy_(second.weight[torch.randperm(8, generator=generator())])
        assert relative_change(before, wide(X)) > 0.05
    chain = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3)]
    narrow = nn.Sequential(*chain).eval()
    rows = unit_mapping(4, 8, generator())
    first = narrow[0].weight.detach()
    with torch.no_grad():
        before = narrow(X)
        for normalised, low, high in ((False, 0, 1e-5), (True, 0.05, 10)):
            copied = first[rows]
            if normalised:
                norms = copied[4:].flatten(1).norm(dim=1)
                copied[4:] /= norms[:, None, None, None]
            y = torch.nn.functional.conv2d(X, copied)
            y = torch.nn.functional.batch_norm(y, torch.zeros(8), torch.ones(8)).relu()
            weight = widen_weight(narrow[3].weight, torch.arange(4), rows, equal_shares(rows))
            after = torch.nn.functional.conv2d(y, weight, narrow[3].bias)
            assert low <= relative_change(before, after) < high


class Flattened(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.fc = nn.Linear(width * 64, 10)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))


@pytest.mark.parametrize(
    ("narrow", "wide", "reason"),
    [
        (Flattened(4), Flattened(7), "do not carry the same channels"),
        (MAKERS["wide"](8), MAKERS["wide"](4), "cannot become"),
        (MAKERS["wide"](4), MAKERS["residual"](8), "the wide network has no"),
        (nn.Sequential(nn.LayerNorm(8)), nn.Sequential(nn.LayerNorm(16)), "parameters of its own"),
        (
            nn.Sequential(nn.Conv2d(4, 4, 1, groups=2)),
            nn.Sequential(nn.Conv2d(8, 8, 1, groups=2)),
            "groups",
        ),
    ],
)
def test_what_cannot_be_widened_is_refused_with_the_reason(narrow, wide, reason):
    with pytest.raises(RetrofitError, match=reason):
        widen(narrow, wide, "net2net", generator(), example=X)

"""Equal FLOPs per layer and per network by the project's own counter, and what stays dense."""

import copy
import itertools
from dataclasses import astuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from methods.measure.cost import count
from methods.models.networks.residual import Residual
from methods.models.networks.resnet import ResNet
from methods.models.networks.vit import VisionTransformer
from methods.prune.sizes import wide_factor, widened
from methods.prune.sparse_training import check, detach, masked_layers
from methods.prune.transform import Recipe, counted, plan, transform
from methods.study.errors import RetrofitError
from tests.prune.golden import NETWORKS

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
FAMILIES = ["wide", "parallel", "factorized", "doped"]


def network():
    torch.manual_seed(0)
    return Residual(3, 10, width=8, blocks=1)


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
@pytest.mark.parametrize("s", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_flops_of_the_whole_network_are_equal(family, s, distribution):
    model = network()
    made, found = transform(model, IMAGE, Recipe(family, s, distribution))
    dense, sparse = counted(model, IMAGE), counted(made, IMAGE)
    cheapest = min(row.flops // (2 * torch.Size(row.shape).numel()) for row in found.rows[1:-1])
    assert 0 <= dense.macs - sparse.effective_macs < cheapest
    assert sparse.effective_macs == found.after.effective_macs
    assert sparse.macs > dense.macs
    if family != "wide" and distribution == "uniform":
        assert sparse.effective_macs == dense.macs
    masks = masked_layers(made)
    kept = {name: int(layer.weight_mask.sum()) for name, layer in masks.items()}
    assert kept == {name: int(torch.count_nonzero(m.weight)) for name, m in masks.items()}
    assert kept == {name: layer.weight_goal for name, layer in masks.items()}
    assert made(IMAGE).shape == (1, 10)


@pytest.mark.parametrize("s", [0.5, 0.75, 0.9])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_flops_of_each_layer_are_equal(family, s):
    found = plan(network(), IMAGE, Recipe(family, s))
    inner = sum(row.flops for row in found.rows if not row.exempt)
    dearer = sum(row.new_flops - row.flops for row in found.rows if row.exempt)
    for row in found.rows:
        if family != "wide":
            assert row.new_flops == row.flops, row
        elif not row.exempt:
            # What the ends cost more is taken from each layer alike, but for the cut-off widths.
            old = torch.Size(row.shape).numel()
            share = (1 - found.sparsity) * row.weights / old
            assert row.new_flops / row.flops == pytest.approx(share, abs=6 / old), row
            assert share == pytest.approx(1 - dearer / inner, rel=0.05)


def test_uniform_wide_has_one_sparsity_everywhere():
    found = plan(network(), IMAGE, Recipe("wide", 0.75))
    shares = [row.nonzeros / row.weights for row in found.rows if not row.exempt]
    assert max(shares) - min(shares) < 0.002  # a weight of the smallest layer
    assert found.sparsity == pytest.approx(1 - shares[-1], abs=1e-3)


def test_linear_layers_and_attention_count():
    model = VisionTransformer(1, 10, 8, 4, width=24, depth=2, heads=2)
    image = torch.randn(1, 1, 8, 8)
    for family in ("parallel", "factorized", "doped"):
        made, found = transform(model, image, Recipe(family, 0.5))
        assert found.ratio == 1
        assert made(image).shape == (1, 10)
    wide = VisionTransformer(1, 10, 8, 4, width=34, depth=2, heads=2)
    _, found = transform(model, image, Recipe("wide", 0.5), wide=wide)
    assert found.ratio == pytest.approx(1, abs=1e-4)
    with pytest.raises(
        RetrofitError,
        match=r"other layers than the model; the first is layers\.2\.attention\.k_proj",
    ):
        transform(
            model,
            image,
            Recipe("wide", 0.5),
            wide=VisionTransformer(1, 10, 8, 4, width=34, depth=3, heads=2),
        )


def test_conv_heads_and_models_without_a_trunk():
    convolutional = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)
    )
    reasons = [row.exempt for row in plan(convolutional, IMAGE, Recipe("wide", 0.75)).rows]
    assert reasons == ["first layer", "", "last layer"]
    single = nn.Linear(6, 6)
    made, found = transform(single, torch.randn(2, 6), Recipe("parallel", 0.5, ends=True))
    assert found.ratio == 1
    assert made(torch.randn(2, 6)).shape == (2, 6)


def test_a_layer_as_wide_as_the_classes_is_masked_all_the_same():
    """The published code leaves any weight dense that has a side equal to the number of classes."""
    model = nn.Sequential(
        nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 10)
    )
    made, _ = transform(model, torch.randn(1, 6), Recipe("doped", 0.5))
    assert list(masked_layers(made)) == ["2.sparse"]


def test_doped_terms_stay_dense():
    """The published code masks U and V too, and so pays (1-s)(1+s) of the budget."""
    published = [n for n in NETWORKS if n["family"] == "sparse_doped"]
    for entry in published:
        s = entry["s"]
        assert entry["nominal_mults_ratio"] == pytest.approx(1 - s**2, abs=0.02)
        assert plan(network(), IMAGE, Recipe("doped", s)).ratio == 1


def resnet18():
    return ResNet(3, 100)


@pytest.fixture(scope="module")
def published():
    """(network, image, multiplications as the published profiler counts them) of CIFAR ResNet-18."""
    image = torch.zeros(1, 3, 32, 32)
    return resnet18(), image


def normalised(model, image):
    """Numbers that pass through batch normalisation for one image."""
    total = 0

    def note(module, _, output):
        nonlocal total
        total += output.numel()

    hooks = [
        m.register_forward_hook(note) for m in model.modules() if isinstance(m, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        model.eval()(image)
    for hook in hooks:
        hook.remove()
    return total


def test_resnet18_is_the_published_one(published):
    model, image = published
    entry = next(n for n in NETWORKS if n["family"] == "dense")
    assert sum(p.numel() for p in model.parameters()) == entry["params"]
    # Its profiler adds three multiplications for each normalised number.
    assert count(model.eval(), image).macs + 3 * normalised(model, image) == entry["mults"]


@pytest.mark.parametrize(
    "entry",
    # .9 has 111 million weights and takes as long as all other tests together.
    [n for n in NETWORKS if n["family"] == "sparse_wide" and n["s"] < 0.9],
    ids=lambda n: n["s"],
)
def test_wide_resnet18_is_the_published_one(published, entry):
    model, image = published
    width = widened(64, wide_factor(entry["s"]))
    wide = ResNet(3, 100, width=width)
    assert sum(p.numel() for p in wide.parameters()) == entry["params"]
    _, found = transform(model, image, Recipe("wide", entry["s"]), wide=wide)
    assert sum(not row.exempt for row in found.rows) == entry["masked_names"]
    assert sum(row.weights for row in found.rows if not row.exempt) == entry["masked_numel"]
    # The published search stops within a thousandth of a budget that has normalisation in it.
    assert found.sparsity == pytest.approx(entry["searched_sparsity"], abs=2e-3)
    assert found.ratio == pytest.approx(1, abs=1e-6)
    assert entry["nominal_mults_ratio"] != pytest.approx(1, abs=4e-3)


def test_ends_are_never_masked_by_accident():
    for name in ("stem.0", "head"):
        with pytest.raises(RetrofitError, match=rf"{name} is the (first|last) layer of Residual"):
            plan(network(), IMAGE, Recipe("wide", only=(name,)))
    found = plan(network(), IMAGE, Recipe("wide", only=("*",), ends=True))
    assert not any(row.exempt for row in found.rows)
    assert found.ratio == pytest.approx(1, abs=1e-4)


def test_layers_are_chosen_by_pattern():
    chosen = plan(
        network(), IMAGE, Recipe("parallel", only=("stages.*.conv?",), exempt=("stages.0.*",))
    )
    assert [row.name for row in chosen.rows if not row.exempt] == [
        f"stages.{i}.conv{j}" for i, j in itertools.product((1, 2), (1, 2))
    ]
    with pytest.raises(
        RetrofitError,
        match=r"'stages.0.conv22' is no layer of Residual; did you mean 'stages.0.conv2'",
    ):
        plan(network(), IMAGE, Recipe("wide", exempt=("stages.0.conv22",)))


def test_what_stays_dense_says_why():
    class Odd(nn.Linear):
        pass

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(11, 8)
            self.odd, self.plain, self.unused = Odd(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.grouped = nn.Conv1d(8, 8, 1, groups=2)
            self.head = nn.Linear(8, 11)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            x = self.plain(self.odd(self.embedding(tokens)))
            return self.head(self.grouped(x.transpose(1, 2)).transpose(1, 2))

    rows = plan(Net(), torch.zeros(1, 4, dtype=torch.int64), Recipe("parallel", 0.5)).rows
    assert {row.name: row.exempt for row in rows} == {
        "odd": "Odd may do more than its base class",
        "plain": "",
        "grouped": "Conv1d is not supported",
        "head": "last layer",
        "unused": "never called by itself",
    }
    tied = plan(
        Net(), torch.zeros(1, 4, dtype=torch.int64), Recipe("parallel", 0.5, ends=True)
    ).rows
    assert (
        next(row for row in tied if row.name == "head").exempt == "shares its weight with embedding"
    )


def test_a_budget_that_the_dense_part_exceeds_is_refused():
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 64))
    with pytest.raises(RetrofitError, match=r"stay dense cost .* more than the whole budget"):
        plan(model, torch.randn(1, 64), Recipe("wide", 0.9))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "wider"}, "family 'wider': did you mean 'wide'"),
        ({"distribution": "erkk"}, "did you mean 'erk'"),
        ({"activation": "rely"}, "did you mean 'relu'"),
        ({"sparsity": 0.7}, "nearest allowed are 0.666667 and 0.75"),
        ({"family": "parallel", "sparsity": 0.7}, "nearest allowed are 0.666667 and 0.75"),
        ({"sparsity": 1.0}, "less than 1"),
        ({"family": "dense", "sparsity": 0.5}, "family 'dense' has no sparsity"),
    ],
)
def test_wrong_recipes_are_refused(settings, message):
    with pytest.raises(RetrofitError, match=message):
        Recipe(**settings)


def test_a_sparsity_is_solved_anew_if_asked():
    assert Recipe("wide", 0.7, resolve=True).sparsity == pytest.approx(2 / 3)
    assert Recipe("factorized", 0.7).sparsity == 0.7  # any rank will do
    assert plan(network(), IMAGE, Recipe("factorized", 0.7)).ratio == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_given_stays_as_it_was_and_the_seed_decides_the_masks(family):
    model = network()
    before = copy.deepcopy(model.state_dict())
    one, two, other = (transform(model, IMAGE, Recipe(family, 0.5), seed=s)[0] for s in (0, 0, 1))
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    masks = [[layer.weight_mask for layer in masked_layers(m).values()] for m in (one, two, other)]
    assert all(map(torch.equal, masks[0], masks[1]))
    assert not all(map(torch.equal, masks[0], masks[2]))


def test_without_sparsity_wide_is_the_network_itself():
    model = network()
    made, found = transform(model, IMAGE, Recipe("wide", 0.0))
    assert astuple(found.after)[2:4] == astuple(found.before)[2:4]
    torch.testing.assert_close(
        {n: t.shape for n, t in detach(made).state_dict().items()},
        {n: t.shape for n, t in model.state_dict().items()},
    )
    doped, _ = transform(model, IMAGE, Recipe("doped", 0.0))
    assert torch.equal(doped.eval()(IMAGE), model.eval()(IMAGE))


def test_masked_products_are_products_with_zeros():
    made, _ = transform(network(), IMAGE, Recipe("factorized", 0.75))
    check(made)
    layer = made.stages[0].conv1.u
    x = torch.randn(1, 8, 8, 8)
    expected = functional.conv2d(x, layer.weight * layer.weight_mask, stride=1, padding=1)
    assert torch.equal(layer(x), expected)


def test_the_plan_prints_as_a_table():
    lines = str(plan(network(), IMAGE, Recipe("wide", 0.75))).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert lines[1].endswith("first layer")
    assert len(lines) == 12
    assert lines[-1].startswith("all")
    assert lines[-1].endswith("x 1.000000")

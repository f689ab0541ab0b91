"""The networks: published sizes, shapes, ablations, saving, and images that cannot be counted."""

import json

import numpy as np
import pytest
import torch

from methods.counting import network as networks
from methods.counting.backbones import EfficientNetLiteFeatures
from methods.counting.baselines import MCNN, CSRNet
from methods.counting.hmode import HMoDE
from methods.counting.params import PublishedWeights
from methods.counting.start import initialise, take_backbone, take_published
from methods.models.networks.network import Network, build
from methods.study.errors import RetrofitError


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_sizes():
    with torch.device("meta"):
        hmode, csrnet, mcnn = HMoDE(), CSRNet(), MCNN()
    assert round(parameters(hmode) / 1e6, 2) == 82.62
    assert round(parameters(hmode.gate2) / 1e6, 2) == 48.37
    # the first ten convolutions' normalisation is all that CSRNet's published 16 263 489 lack
    assert parameters(csrnet) == 16_263_489 + 2 * (64 * 2 + 128 * 2 + 256 * 3 + 512 * 3)
    assert 0.12e6 < parameters(mcnn) < 0.14e6


def small(**options):
    torch.manual_seed(0)
    return HMoDE(4, 16, positive="softplus", **options).eval()


@pytest.mark.parametrize(
    ("mixture", "levels", "gates"),
    [
        ("hierarchical", [0, 0, 0, 1, 1, 1, 2], 3),
        ("flat", [0, 0, 0, 2], 1),
        ("mean", [0, 0, 0, 2], 0),
        ("single", [0], 0),
    ],
)
@pytest.mark.parametrize("size", [(64, 48), (67, 35), (16, 16)])
def test_maps_have_the_images_size_and_the_mixture_lies_in_the_experts_hull(
    mixture, levels, gates, size
):
    found = small(mixture=mixture)(torch.randn(2, 3, *size))
    assert found.levels == levels
    assert len(found.gates) == gates
    assert {m.shape for m in found.maps} == {(2, 1, *size)}
    assert (found.attention is None) == (mixture in ("mean", "single"))
    experts = torch.stack(found.maps[:3] if mixture != "single" else found.maps)
    assert (found.density >= experts.amin(0) - 1e-6).all()
    assert (found.density <= experts.amax(0) + 1e-6).all()
    assert found.density.min() >= 0


@pytest.mark.parametrize("kind", [MCNN, CSRNet])
@pytest.mark.parametrize("normalised", [True, False])
def test_baselines_have_one_map(kind, normalised):
    found = kind(4, normalised=normalised)(torch.randn(2, 3, 33, 50))
    assert [m.shape for m in found.maps] == [(2, 1, 33, 50)]


def test_relu_experts_of_a_small_network_die_and_softplus_ones_do_not():
    x = torch.randn(2, 3, 64, 64)
    dead = HMoDE(4, 16)
    initialise(dead, "published", 0)
    alive = small()
    initialise(alive, "he", 0)
    gradients = []
    for net in (dead, alive):
        net(x).density.sum().backward()
        gradients.append(float(net.decode3[0].weight.grad.abs().mean()))
    assert gradients[0] < 1e-3 * gradients[1]


def test_starting_weights_are_the_same_for_a_seed_and_as_said():
    one, two = HMoDE(8, 16), HMoDE(8, 16)
    initialise(one, "published", 3)
    initialise(two, "published", 3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert float(one.decode3[0].weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    initialise(two, "he", 3)
    fan = two.decode3[0].weight[0].numel()
    assert float(two.decode3[0].weight.detach().std()) == pytest.approx((2 / fan) ** 0.5, rel=0.05)
    assert float(two.gate1[-1].weight.detach().std()) < 0.02


def counter(**options):
    arguments = {"width": 4, "second_gate": 16, "positive": "softplus", **options}
    module = networks.build("hmode", arguments, 1)
    return networks.Counter(module.eval(), "hmode", arguments, [0.5] * 3, [0.2] * 3, 100.0)


def picture(h=40, w=56, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def test_a_saved_counter_loads_to_the_same_bits(tmp_path):
    ours = counter(mixture="flat")
    ours.pictures, ours.notes = {"01": b"png"}, {"of": "trees"}
    ours.save(tmp_path / "run")
    again = networks.load(tmp_path / "run")
    assert np.array_equal(again.density(picture()), ours.density(picture()))
    assert (again.pictures, again.notes, again.scale) == ({"01": b"png"}, {"of": "trees"}, 100.0)


def test_a_damaged_directory_is_refused(tmp_path):
    with pytest.raises(RetrofitError, match="no usable counting network"):
        networks.load(tmp_path)
    counter().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "arguments": {**config["arguments"], "width": 8}})
    )
    with pytest.raises(RetrofitError, match="does not fit the network"):
        networks.load(tmp_path)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (picture(15, 40), "40 x 15 pixels is smaller than the network's stride of 16"),
        (picture()[..., 0], r"uint8 \(40, 56\); expected uint8 \[height, width, 3\]"),
        (picture().astype(float), r"float64 \(40, 56, 3\)"),
    ],
)
def test_images_that_cannot_be_counted(image, words):
    with pytest.raises(RetrofitError, match=words):
        counter().count(image)


def test_a_count_that_is_not_finite_is_refused():
    ours = counter()
    ours.module.experts[0].outer.bias.data.fill_(float("inf"))
    with pytest.raises(RetrofitError, match="not finite"):
        ours.count(picture())


def test_counting_leaves_the_network_in_its_mode():
    ours = counter()
    ours.module.train()
    first = ours.count(picture())
    assert ours.module.training
    assert ours.count(picture()) == first


def lite():
    return Network(
        build("efficientnet_lite", {}, 2), "efficientnet_lite", {}, [0.5] * 3, [0.5] * 3, ["a"]
    )


def test_a_frozen_backbone_is_the_bases_and_stays_in_evaluation_mode():
    base = lite()
    net = HMoDE(4, 16, backbone="efficientnet_lite", frozen=True)
    initialise(net, "he", 0)
    take_backbone(net, base)
    x = torch.randn(2, 3, 64, 64)
    before = base.module.stem[0].weight.clone()
    assert torch.equal(net.backbone.stem[0].weight, before)
    net.train()
    assert not net.backbone.training
    assert net.decode1.training
    features = net.backbone(x)
    assert [f.shape[1:] for f in features] == [(24, 16, 16), (40, 8, 8), (112, 4, 4)]
    base.module.eval()
    with torch.no_grad():
        y = base.module.stem(x)
        for layer in base.module.layers[:11]:
            y = layer(y)
    assert torch.allclose(features[-1], y, atol=1e-5)
    net(x).density.sum().backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    assert EfficientNetLiteFeatures(frozen=False).train().stem[1].training


def test_a_lite_backbone_without_its_base_is_refused():
    with pytest.raises(RetrofitError, match="density_maps_beside_base before it"):
        take_backbone(HMoDE(4, 16, backbone="efficientnet_lite"), None)


def test_published_weights_are_checked_by_their_sha256(tmp_path, monkeypatch):
    import hashlib

    donor = HMoDE(64, 8)
    state = {f"features.{k}": v for k, v in donor.backbone.features.state_dict().items()}
    file = tmp_path / "vgg.pth"
    torch.save({**state, "classifier.0.weight": torch.zeros(2)}, file)
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setenv("VGG", str(file))
    for net in (HMoDE(64, 8), CSRNet(64)):
        take_published(net, PublishedWeights(file="$VGG", sha256=sha[:8]))
        features = net.backbone.features if isinstance(net, HMoDE) else net.features
        assert torch.equal(features[0].weight, donor.backbone.features[0].weight)
        assert torch.equal(features[31].weight, donor.backbone.features[31].weight)
    with pytest.raises(RetrofitError, match=f"has the sha256 {sha}, expected 00000000"):
        take_published(HMoDE(64, 8), PublishedWeights(file="$VGG", sha256="00000000"))
    with pytest.raises(RetrofitError, match="variable NO_VGG is not set"):
        take_published(HMoDE(64, 8), PublishedWeights(file="$NO_VGG"))
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(3)}, other)
    sha = hashlib.sha256(other.read_bytes()).hexdigest()
    with pytest.raises(RetrofitError, match="does not fit a VGG16"):
        take_published(HMoDE(64, 8), PublishedWeights(file=str(other), sha256=sha))

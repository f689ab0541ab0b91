"""The two steps on digits: what they record, resuming, annealing that freezes, artifacts."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from methods.data.kinds import Images, Table
from methods.export.packed import PackedWeight
from methods.measure import size
from methods.measure.params import Size
from methods.models.networks.network import Network
from methods.models.networks.params import VisionTransformerSizes
from methods.quantize_aware import anneal, ofq
from methods.quantize_aware.distillation import Teacher, distillation_loss
from methods.quantize_aware.modules import masters
from methods.quantize_aware.params import OFQ, Anneal
from methods.quantize_aware.payload import load, load_integer
from methods.run.context import Context
from methods.study.errors import RetrofitError
from methods.train.params import TrainClassifier
from methods.train.train_classifier import apply as train_classifier
from tests.fit.killed import resumed
from tests.quantize_aware.golden import golden


@cache
def digits():
    x, y = load_digits(return_X_y=True)
    x = (x * 255 / 16).reshape(-1, 8, 8).astype(np.uint8)
    names = [str(i) for i in range(10)]
    parts = {"train": slice(0, 1200), "validation": slice(1200, 1797)}
    return {
        role: [Images(f"digits.{role}", x[part], y[part].astype(np.int64), names)]
        for role, part in parts.items()
    }


@cache
def base():
    sizes = VisionTransformerSizes(patch=4, width=24, depth=2, heads=2)
    params = TrainClassifier(
        network=sizes, epochs=20, batch=32, learning_rate=3e-3, precision="float32"
    )
    return train_classifier(None, digits(), params, Context())


def settings(**changes):
    values = {"epochs": 2, "batch": 60, "learning_rate": 3e-3, "final_rate": 1e-4, "warm_up": 0.1}
    return OFQ(**{**values, **changes})


def annealing(**changes):
    return Anneal(**{"epochs": 1, "batch": 60, "learning_rate": 1e-4, **changes})


def run(params, network=None, context=None):
    context = context or Context()
    step = ofq if isinstance(params, OFQ) else anneal
    return step.apply(network or base(), digits(), params, context), context.history


@cache
def trained():
    return run(settings(query_key="exact"))[0]


def same_weights(one, two):
    states = one.module.state_dict(), two.module.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": "lsq", "query_key": "plain", "activations": "lsq"},
        {"weights": "lsq", "query_key": "plain"},
        {"query_key": "plain", "bits": 3},
        {"query_key": "published", "activation_bits": 32},
        {"query_key": "exact", "bits": 4},
        {"query_key": "exact", "bits": 32},
    ],
)
def test_a_run_learns_records_and_loads_again_to_the_bit(changes, tmp_path):
    network, history = run(settings(**changes))
    found = network.metrics
    assert found["validation_accuracy"].value > 0.8
    assert found["updates"].value == 40
    rounded = changes.get("bits") != 32
    assert ("oscillation/all" in found) == rounded
    epochs = [row for row in history if "epoch" in row]
    assert [row["step"] for row in epochs] == [20, 40]
    assert ("oscillating" in epochs[-1]) == rounded
    if rounded:
        assert epochs[-1]["in_band"] == found["in_band"].value
    network.save(tmp_path)
    x = digits()["validation"][0].x[:200]
    for again in (load(tmp_path), load_integer(tmp_path / "integer")):
        assert torch.equal(again.logits(x), network.logits(x))
    assert same_weights(load(tmp_path), network)
    assert load(tmp_path).plans == network.plans
    x0 = base().logits(x)
    assert torch.equal(load(tmp_path).teacher.logits(x), x0)  # and the base is as it was


def test_the_integer_form_holds_codes_and_no_float_weights(tmp_path):
    network = trained()
    network.save(tmp_path)
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "integer" / "model.safetensors")
    names = {name for name in stored if name.endswith("weight") and stored[name].dim() > 1}
    assert names == set()
    product = "layers.0.attention.product_layer"
    assert f"{product}.weight_packed" in stored
    assert not any("q_proj" in name or "k_proj" in name for name in stored)
    assert stored["layers.0.attention.query_rows"].shape == (2, 24)
    found = size.measure(network, {}, Size(), Context())
    bytes_stored = sum(tensor.nbytes for tensor in stored.values())
    assert found["size/stored"].value == bytes_stored
    assert found["size/deployed"].value == network.metrics["deployed_bytes"].value


def test_deployed_bytes_by_hand():
    network = trained()
    width, heads, inner, tokens, depth = 24, 2, 96, 5, 2
    codes = depth * (heads * width**2 + 2 * width**2 + 2 * width * inner) * 2
    codes += (16 * width + 10 * width) * 8
    scales = depth * (heads * width + 2 * width + inner + width) + width + 10
    shifts = depth * 2 * (width + width + width + heads * width + width + inner)
    steps = depth * (tokens * (1 + 1 + 1 + heads + 1 + 1) + width) + 1 + 1
    norms = (2 * depth + 1) * 2 * width
    biases = depth * (2 * width + inner + width) + width + 10
    other = width + tokens * width + depth * heads * width
    dense = shifts + steps + norms + biases + other
    assert network.metrics["deployed_bytes"].value == (codes + 16 * (scales + dense)) / 8


def test_multiplications_by_hand():
    width, heads, inner, tokens, depth = 24, 2, 96, 5, 2
    plain = run(settings(query_key="plain", epochs=1))[0].metrics["macs"].value
    edges = 4 * 16 * width + 10 * width
    rest = 2 * tokens * width**2 + tokens**2 * width + 2 * tokens * width * inner
    assert plain == edges + depth * (2 * tokens * width**2 + tokens**2 * width + rest)
    # The joint matrix maps a token to all heads, and scores are as wide as the network, for each head.
    joint = heads * tokens * width**2 + heads * tokens**2 * width + heads * tokens * width
    assert trained().metrics["macs"].value == edges + depth * (joint + rest)


def test_a_corrupted_code_is_noticed_when_saving(tmp_path):
    network = run(settings(epochs=1))[0]
    name, packed = next(iter(network.quantized.items()))
    packed.codes[0, 0] ^= 1
    with pytest.raises(RetrofitError, match=f"codes of {name} do not give"):
        network.save(tmp_path)


def test_damaged_artifacts_are_refused(tmp_path):
    trained().save(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RetrofitError, match="no usable network"):
        load(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"query_key": "published"},
        {
            "weights": "lsq",
            "query_key": "plain",
            "stabilise": "freeze",
            "freeze_above": (0.02, 0.01),
        },
        {"query_key": "plain", "stabilise": "dampen"},
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(changes, tmp_path, monkeypatch):
    params = settings(augment=True, **changes)
    expected, history = run(params)
    found, again = resumed(lambda c: run(params, context=c)[0], 27, tmp_path, monkeypatch)
    assert same_weights(found, expected)
    assert again == history
    assert found.metrics == expected.metrics


def test_killed_annealing_resumes_to_the_same_bits(tmp_path, monkeypatch):
    params, network = annealing(boundary=0.02), trained()
    expected, history = run(params, network)
    found, again = resumed(lambda c: run(params, network, c)[0], 9, tmp_path, monkeypatch)
    assert same_weights(found, expected)
    assert again == history
    assert found.metrics == expected.metrics


def test_annealing_moves_only_what_was_near_a_threshold():
    network = trained()
    edges = {"embedding.patch", "head.classifier"}
    before = {n: (r.detach().clone(), q) for n, (r, q) in masters(network.module).items()}
    result, _ = run(annealing(boundary=0.02, learning_rate=1e-3, weight_decay=0.5), network)
    moved = 0
    for name, (rows, _) in masters(result.module).items():
        old, quantizer = before[name]
        changed = rows.detach() != old
        if name in edges or name.endswith("product_layer"):
            assert changed.any()
            continue
        # Momentum and decay act on all of them; each stayed where it was or began near a threshold
        # (of this or a later update, when the row's scale had moved a little).
        near = quantizer.near(old, 0.1)
        assert not (changed & ~near).any(), name
        moved += int(changed.sum())
    assert moved > 0
    assert 0 < result.metrics["annealed"].value < 0.05


def test_with_a_boundary_of_nothing_only_free_parts_move():
    result, _ = run(annealing(boundary=0.0), trained())
    for name, (rows, _) in masters(result.module).items():
        if name.endswith(("v_proj", "o_proj", "mlp.0", "mlp.2")):
            assert torch.equal(rows, masters(trained().module)[name][0]), name
    control, _ = run(annealing(boundary=None), trained())
    assert not torch.equal(
        control.module.layers[0].mlp[0].weight, trained().module.layers[0].mlp[0].weight
    )
    assert "annealed" not in control.metrics


def test_the_mask_on_the_product_works_and_the_published_one_does_not():
    """Published code: the gradient of query and key is the same for every boundary."""
    network = ofq.float_copy(trained())
    network.module.requires_grad_(True)
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def gradient(params):
        network.module.zero_grad()
        with anneal.masking(network.module, anneal.edges(trained().plans), params):
            network.module(x).square().sum().backward()
        return network.module.layers[0].attention.q_proj.weight.grad.clone()

    free = gradient(annealing(boundary=None))
    published = [gradient(annealing(boundary=b, product="published_code")) for b in (0, 0.005, 0.2)]
    assert all(torch.equal(free, one) for one in published)
    # Beyond a boundary of nothing all of the product is frozen: what is left came from the bias.
    network.module.layers[0].attention.q_proj.bias.data.zero_()
    none = gradient(annealing(boundary=0.0))
    some = gradient(annealing(boundary=0.2))
    assert float(none.abs().max()) < 1e-6 < float(some.abs().max())
    assert not torch.equal(some, gradient(annealing(boundary=None)))
    assert all(q.band is None for _, q in masters(network.module).values())


def test_frozen_weights_stay_at_a_level():
    params = settings(
        weights="lsq", query_key="plain", stabilise="freeze", freeze_above=(0.012, 0.009), epochs=3
    )
    result, _ = run(params)
    assert 0 < result.metrics["oscillation/frozen"].value < 1
    plain, _ = run(params.model_copy(update={"stabilise": "none"}))
    on_a_level = [
        sum(
            int((rows - quantizer.levels(rows)).abs().lt(1e-6).sum())
            for name, (rows, quantizer) in masters(network.module).items()
            if quantizer.bits == 2
        )
        for network in (result, plain)
    ]
    assert on_a_level[0] > 3 * on_a_level[1]


def test_dampening_brings_weights_nearer_to_their_levels():
    def distance(**changes):
        network, _ = run(settings(weights="lsq", query_key="plain", **changes))
        total = 0.0
        for rows, quantizer in masters(network.module).values():
            if quantizer.bits == 2:
                ends = [torch.full_like(rows[:, :1], code) for code in (-2, 1)]
                ends = [quantizer.value(rows, end) for end in ends]
                total += float((rows.clamp(*ends) - quantizer.levels(rows)).square().sum())
        return total

    assert distance(stabilise="dampen", dampening=5.0) < 0.5 * distance()


def test_the_loss_is_the_authors():
    arrays = golden("loss")
    out, dist, teacher, target = (arrays[k] for k in ("out", "dist", "teacher", "target"))
    close = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(distillation_loss(out, target, teacher), arrays["kd"], **close)
    torch.testing.assert_close(
        distillation_loss(out, target, teacher, dist), arrays["kd_tuple"], **close
    )
    labels = torch.nn.functional.cross_entropy(out, target)
    torch.testing.assert_close(distillation_loss(out, target, None), labels)


def test_the_teacher_is_in_evaluation_mode_and_has_no_gradients():
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 3))
    network = Network(module.train(), "x", {}, [0.5], [0.5], list("abc"))
    pixels = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    changing, fixed = (Teacher(network, pixels, changing=c) for c in (True, False))
    chosen = torch.tensor([4, 1])
    one = changing.logits(pixels[chosen], chosen)
    assert torch.equal(one, changing.logits(pixels[chosen], chosen))
    torch.testing.assert_close(one, fixed.logits(pixels[chosen], chosen))
    assert not one.requires_grad
    assert not module.training


def test_distillation_and_seeds_change_a_run_and_nothing_else_does():
    one, two = (run(settings(epochs=1))[0] for _ in range(2))
    assert same_weights(one, two)
    assert not same_weights(one, run(settings(epochs=1, distill=False))[0])
    assert not same_weights(one, run(settings(epochs=1), context=Context(seed=1))[0])


def test_pruned_weights_stay_pruned_under_lsq_and_are_refused_by_statsq():
    network = ofq.float_copy(base())
    weight = network.module.layers[0].mlp[0].weight
    with torch.no_grad():
        weight[:, ::2] = 0
    with pytest.raises(RetrofitError, match=r"weights of layers\.0\.mlp\.0 are zero, and StatsQ"):
        run(settings(), network)
    result, _ = run(settings(weights="lsq", query_key="plain", epochs=1), network)
    assert not result.module.layers[0].mlp[0].weight[:, ::2].any()
    assert not result.network.layers[0].mlp[0].weight[:, ::2].any()


def test_bases_and_data_that_cannot_work():
    with pytest.raises(RetrofitError, match="give the variant a step before it"):
        ofq.apply(None, digits(), settings(), Context())
    with pytest.raises(RetrofitError, match="quantised already"):
        run(settings(), trained())
    packed = ofq.float_copy(base())
    packed.quantized = {"head.classifier": PackedWeight}
    with pytest.raises(RetrofitError, match="quantised already"):
        run(settings(), packed)
    with pytest.raises(RetrofitError, match="not a dict"):
        run(settings(), {"a": 1})
    with pytest.raises(RetrofitError, match="anneal goes on after ofq"):
        run(annealing(), base())
    with pytest.raises(RetrofitError, match="no weight of the network has 4 bits or fewer"):
        run(annealing(), run(settings(epochs=1, bits=8))[0])
    with pytest.raises(RetrofitError, match="distill: false; say so here too"):
        run(annealing(), run(settings(epochs=1, distill=False))[0])
    other = Images("other", digits()["train"][0].x, digits()["train"][0].y, list("abcdefghij"))
    with pytest.raises(RetrofitError, match="other classes than the network"):
        ofq.apply(base(), {"train": [other]}, settings(), Context())
    table = Table("soup.train", np.zeros((3, 2)), np.zeros(3, np.int64), ["a", "b"], ["c"])
    with pytest.raises(RetrofitError, match=r"needs images, and soup\.train has none"):
        ofq.apply(base(), {"train": [table]}, settings(), Context())


def test_query_key_on_a_network_without_attention():
    sizes = {"architecture": "fully_connected", "width": 16, "depth": 2}
    params = TrainClassifier(network=sizes, epochs=1, precision="float32")
    network = train_classifier(None, digits(), params, Context())
    with pytest.raises(RetrofitError, match="has no attention; use query_key: plain"):
        run(settings(), network)
    result, _ = run(settings(query_key="plain", epochs=1), network)
    assert result.metrics["updates"].value == 20

"""The whole step on tiny networks: better than rounding, whole after a stop, and clear about wrong input."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from methods.models.networks import network as networks
from methods.models.networks.folding import fold_batch_norms
from methods.models.networks.network import Network
from methods.quantize import learned_rounding
from methods.quantize.learned_params import LearnedRounding
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.models.tiny import tiny_tokens
from tests.quantize.stage import calibration, tiny_base

ARCHITECTURES = {
    "fully_connected": {"inputs": 3 * 16 * 16, "classes": 5, "width": 32, "depth": 2},
    "residual": {"channels": 3, "classes": 5, "width": 8, "blocks": 1},
    "vit": {"channels": 3, "classes": 5, "image": 16, "width": 24, "depth": 2},
    "efficientnet_lite": {"channels": 3, "classes": 5},
}


def settings(**changes) -> LearnedRounding:
    given = {"bits": 2, "group_size": 16, "iterations": 12, "batch": 2, "compute_dtype": "float32"}
    return LearnedRounding(**(given | changes))


def pictures(count=24, side=16, seed=0):
    x = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return SimpleNamespace(name="noise.test", x=x, y=np.zeros(count, np.int64), options={})


def vision(architecture="vit") -> Network:
    arguments = ARCHITECTURES[architecture]
    module = networks.build(architecture, arguments, 0).train()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(3):  # so that running statistics are not the trivial ones
            module(torch.randn(16, 3, 16, 16, generator=g))
    return Network(module.eval(), architecture, arguments, [0.5] * 3, [0.25] * 3, list("abcde"))


def images(**options):
    own = pictures()
    own.options = {"limit": 16, **options}
    return {"calibration": [own], "test": [pictures(seed=1)]}


def logits(model):
    return model.model(tiny_tokens(2, 24)).logits


def error(model, reference):
    return float((logits(model) - logits(reference)).square().mean())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parametrisation": "adaround", "optimizer": "adam", "learn_range": False},
        {"parametrisation": "flexround", "optimizer": "adam"},
        {"parametrisation": "full_range", "optimizer": "adamw", "loss": "normalised_l2"},
        {"parametrisation": "plus_minus_one", "inputs": "mixed", "loss": "huber"},
        {"granularity": "layer", "loss": "l1"},
        {"granularity": "layer", "inputs": "fp", "loss": "cosine"},
        {"loss": "fisher", "augmentation": "gaussian"},
        {"augmentation": "mixup", "selection": {"rule": "ambiguous", "ratio": 0.5}},
        {"augmentation": "token_drop", "selection": {"rule": "random", "ratio": 0.5}},
        {"start": "gptq", "range": "output"},
        {"finish": {"epochs": 2}},
        {"mixed_precision": {"average_bits": 3.0}},
        {"mixed_precision": {"average_bits": 3.0, "importance": "taylor", "candidates": [2, 4]}},
        {"noise_calibration": True, "inputs": "fp"},
    ],
)
def test_every_axis_runs_and_is_no_worse_on_its_calibration_data(changes):
    context = Context()
    found = learned_rounding.apply(tiny_base(), calibration(), settings(**changes), context)
    assert len(found.quantized) == 3 * 7
    rows = [row for row in context.history if "first" in row]
    assert rows
    if "finish" not in changes:
        assert found.metrics["rounding/loss_ratio"].value <= 1
    for name, packed in found.quantized.items():
        layer = found.model.get_submodule(name)
        assert torch.equal(layer.weight, packed.dequantize())
    if "mixed_precision" in changes:
        sizes = {n: p.codes.numel() for n, p in found.quantized.items()}
        bits = sum(p.bits * sizes[n] for n, p in found.quantized.items())
        assert bits <= 3.0 * sum(sizes.values()) + 1e-6
        assert len({p.bits for p in found.quantized.values()}) > 1


def test_learning_beats_rounding_to_nearest_on_the_logits():
    reference, found = tiny_base(), {}
    for kind in ("rtn", "autoround"):
        params = settings(bits=3, parametrisation=kind, iterations=100)
        model = learned_rounding.apply(tiny_base(), calibration(), params, Context())
        found[kind] = error(model, reference)
    assert found["autoround"] < 0.8 * found["rtn"]


@pytest.mark.parametrize("learn", [False, True])
def test_power_grids_are_simulated_and_say_so(learn):
    params = settings(
        parametrisation="power", bits=3, learn_exponent=learn, learn_range=False, group_size=-1
    )
    found = learned_rounding.apply(tiny_base(), calibration(), params, Context())
    assert not found.quantized
    weight = found.model.model.layers[0].mlp.up_proj.weight
    assert len(weight[0].unique()) <= 7


@pytest.mark.parametrize("changes", [{}, {"parametrisation": "adaround", "optimizer": "adam"}])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, monkeypatch, changes):
    monkeypatch.setattr(learned_rounding, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    whole = learned_rounding.apply(tiny_base(), calibration(), settings(**changes), Context())

    class StopError(Exception):
        pass

    context = Context(checkpoint=Checkpoint(tmp_path))
    real = learned_rounding.quantize_block

    def stops(name, *rest):
        if name.endswith(".2"):
            raise StopError
        real(name, *rest)

    monkeypatch.setattr(learned_rounding, "quantize_block", stops)
    with pytest.raises(StopError):
        learned_rounding.apply(tiny_base(), calibration(), settings(**changes), context)
    monkeypatch.setattr(learned_rounding, "quantize_block", real)
    again = learned_rounding.apply(
        tiny_base(), calibration(), settings(**changes), Context(checkpoint=Checkpoint(tmp_path))
    )
    for name, packed in whole.quantized.items():
        assert packed.same_as(again.quantized[name])


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    params = settings(inputs="mixed", augmentation="gaussian")
    first, again = (
        learned_rounding.apply(tiny_base(), calibration(take=4), params, Context(seed=1))
        for _ in range(2)
    )
    other = learned_rounding.apply(tiny_base(), calibration(take=4), params, Context(seed=2))
    name = next(iter(first.quantized))
    assert first.quantized[name].same_as(again.quantized[name])
    assert not first.quantized[name].same_as(other.quantized[name])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_vision_networks_are_quantised_saved_and_loaded(architecture, tmp_path):
    params = settings(bits=4, group_size=-1, batch=8, iterations=4)
    found = learned_rounding.apply(vision(architecture), images(), params, Context())
    assert -1e-6 < found.metrics["fidelity/kl/noise.test"].value < 10
    assert found.metrics["fidelity/agreement/noise.test"].n == 24
    assert found.quantized
    found.save(tmp_path)
    again = networks.load(tmp_path)
    x = pictures().x
    assert torch.equal(again.logits(x), found.logits(x))
    assert again.quantized.keys() == found.quantized.keys()


@pytest.mark.parametrize("architecture", ["residual", "efficientnet_lite", "fully_connected"])
def test_folding_normalisation_changes_no_output(architecture):
    module = vision(architecture).module
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = module(x)
        assert fold_batch_norms(module, x) > 0
        torch.testing.assert_close(module(x), wanted, atol=1e-4, rtol=1e-4)
        norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            torch.testing.assert_close(scale, torch.ones_like(scale))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_compose_to_the_forward_pass(architecture):
    module = vision(architecture).module
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    y = x
    for name, block in module.blocks():
        assert module.get_submodule(name) is block
        y = block(y)
    assert torch.equal(y, module(x))


def test_layers_left_dense_are_listed_with_the_reason():
    params = settings(keep_dense=["*.0.mlp.*"], eight_bits=["*.q_proj"])
    found = learned_rounding.apply(tiny_base(), calibration(), params, Context())
    note = found.notes["quantize"][-1]["learned_rounding"]
    assert set(note["kept dense"]) == {
        f"model.layers.0.mlp.{n}_proj" for n in ("gate", "up", "down")
    }
    assert found.quantized["model.layers.1.self_attn.q_proj"].bits == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 24}, "does not divide"),
        ({"keep_dense": ["*.typo"]}, r"'\*\.typo' matches no layer"),
        ({"keep_dense": ["*"]}, "leaves no layer"),
    ],
)
def test_wrong_settings_for_a_network_get_one_clear_error(changes, message):
    with pytest.raises(RetrofitError, match=message):
        learned_rounding.apply(tiny_base(), calibration(), settings(**changes), Context())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 5}, "2, 3, 4 or 8"),
        ({"iterations": 0}, "greater than or equal to 1"),
        ({"parametrisation": "adaruond"}, "adaround"),
        ({"range": "output"}, "needs start: gptq"),
        ({"start": "gptq", "eight_bits": ["*.down_proj"]}, "rounds every layer to `bits`"),
        ({"start": "gptq", "mixed_precision": {"average_bits": 3.0}}, "rounds every layer"),
        ({"start": "gptq", "parametrisation": "power"}, "no column solver"),
        ({"loss": "fisher", "granularity": "layer"}, "granularity: block"),
        ({"augmentation": "mixup", "batch": 1}, "batch of 2"),
        ({"mixed_precision": {"average_bits": 9}}, "average_bits"),
        ({"learn_exponent": True}, "belongs to parametrisation: power"),
        ({"lerning_rate": 1.0}, "learning_rate"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_weights_and_features_that_are_not_finite_are_named():
    base = tiny_base()
    base.model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(RetrofitError, match=r"layers\.1\.mlp\.up_proj is not finite"):
        learned_rounding.apply(base, calibration(), settings(), Context())
    base = tiny_base()
    base.model.model.layers[1].input_layernorm.weight.data[0] = torch.inf
    with pytest.raises(RetrofitError, match=r"output of model\.layers\.1 is not finite"):
        learned_rounding.apply(base, calibration(), settings(), Context())


def test_a_quantised_base_and_no_base_are_refused():
    done = learned_rounding.apply(tiny_base(), calibration(), settings(iterations=1), Context())
    with pytest.raises(RetrofitError, match="quantised already"):
        learned_rounding.apply(done, calibration(), settings(), Context())
    with pytest.raises(RetrofitError, match="needs a base"):
        learned_rounding.apply(None, calibration(), settings(), Context())
    with pytest.raises(RetrofitError, match="give the study"):
        learned_rounding.apply(vision(), {}, settings(), Context())

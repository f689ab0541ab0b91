"""One layer against the arrays of the authors' code, and what the paper says about its parts."""

from __future__ import annotations

import pytest
import torch

from methods.linearize import gates
from methods.linearize.attention import Liger, Span
from methods.linearize.cache import WindowAndState
from methods.linearize.configuration import LinearizedConfig
from methods.study.errors import RetrofitError
from tests.linearize.golden import arrays

CASES = {"liger_gla_mha": (4, {}), "liger_gsa_gqa": (2, {"gate": "gsa", "pool_size": 8})}


def layer(name: str, **changes) -> Liger:
    kv, attention = CASES[name]
    config = LinearizedConfig(
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=kv,
        num_hidden_layers=1,
        **(attention | changes),
    )
    module = Liger(config, 0)
    weights = {k.removeprefix("w."): v for k, v in arrays(name).items() if k.startswith("w.")}
    module.load_state_dict(weights)
    return module.requires_grad_(False)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("window", [64, 65])
def test_outputs_are_the_published_ones_at_both_windows(name, window):
    z = arrays(name)
    found, _ = layer(name, window=window)(z["hidden"], (z["cos"], z["sin"]))
    torch.testing.assert_close(found, z[f"out_w{window}"], atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize("name", CASES)
def test_intermediate_values_are_the_published_ones(name):
    z = arrays(name)
    module = layer(name)
    heads = module.project(z["hidden"], (z["cos"], z["sin"]))
    gate = gates.log_gates(module.config.gate, module.gate_logits(heads))
    torch.testing.assert_close(module.spread(gate), z["log_g"], atol=5e-6, rtol=5e-6)
    out = module.recurrence(heads, Span(), None)
    torch.testing.assert_close(out, z["grm_o"], atol=5e-6, rtol=5e-5)
    window = layer(name, alpha=0.0, beta=1.0).mix(heads, Span(), None, None)
    torch.testing.assert_close(window, z["swa_w64"], atol=5e-6, rtol=5e-6)


def test_the_last_state_is_the_published_one():
    z = arrays("liger_gla_mha")
    module = layer("liger_gla_mha")
    ring = WindowAndState()
    module.recurrence(module.project(z["hidden"], (z["cos"], z["sin"])), Span(), ring)
    torch.testing.assert_close(ring.states["state"], z["state"], atol=5e-6, rtol=5e-6)


@pytest.mark.parametrize("name", gates.STRUCTURES)
def test_gates_forget_and_never_grow(name):
    logits = torch.randn(2, 3, 7, 8, generator=torch.Generator().manual_seed(0)) * 5
    gate = gates.log_gates(name, logits)
    if name == "none":
        assert gate is None
        return
    assert (gate < 0).all()
    shape = {"key": 8, "slot": 8, "head": 1}[gates.structure(name).shape]
    assert gate.shape == (2, 3, 7, shape)


def test_gates_at_zero_are_those_of_the_paper_without_a_normalizer():
    zero = torch.zeros(1, 1, 1, 4)
    at = {name: gates.log_gates(name, zero, 1.0) for name in ("gla", "mamba2", "mlstm", "rwkv6")}
    for name in ("gla", "mamba2", "mlstm"):
        assert at[name].exp().unique().tolist() == pytest.approx([0.5])
    assert at["rwkv6"].exp().unique().tolist() == pytest.approx([0.36788], abs=1e-4)
    assert gates.log_gates("gla", zero).exp().unique().tolist() == pytest.approx(
        [0.957603], abs=1e-6
    )
    bound = gates.log_gates("hgrn2", zero, lower_bound=0.5).exp().unique().tolist()
    assert bound == pytest.approx([0.75])


def test_pooling_to_the_same_size_changes_nothing_and_pairs_are_averaged():
    logits = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    assert gates.pool(logits, 8) is logits
    pairs = gates.pool(logits, 4)
    torch.testing.assert_close(pairs, logits.unflatten(-1, (4, 2)).mean(-1))


def test_shared_keys_are_keys_repeated():
    z = arrays("liger_gsa_gqa")
    shared = layer("liger_gsa_gqa", gate="gla", pool_size=None)
    config = LinearizedConfig(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=1
    )
    every = Liger(config, 0)
    state = shared.state_dict()
    for name in ("k_proj.weight", "v_proj.weight"):
        state[name] = state[name].unflatten(0, (2, 16)).repeat_interleave(2, 0).flatten(0, 1)
    every.load_state_dict(state)
    places = (z["cos"], z["sin"])
    wanted, _ = every(z["hidden"], places)
    found, _ = shared(z["hidden"], places)
    torch.testing.assert_close(found, wanted, atol=2e-6, rtol=2e-6)


def test_hard_keys_have_finite_gradients():
    module = layer("liger_gla_mha", gate="hgrn2")
    z = arrays("liger_gla_mha")
    hidden = (z["hidden"] * 100).requires_grad_()
    out, _ = module(hidden, (z["cos"], z["sin"]))
    out.sum().backward()
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "glaa"}, "did you mean 'gla'"),
        ({"window": 0}, "window 0"),
        ({"sinks": -1}, "sinks -1"),
        ({"alpha": 0.0, "beta": 0.0}, "no attention"),
        ({"mechanism": "ligar"}, "liger"),
        ({"gate_source": "o"}, "gate_source"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(RetrofitError, match=message):
        LinearizedConfig(**changes)

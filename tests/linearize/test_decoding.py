"""The hand-written step gives the model's own logits, from any prompt length on."""

from __future__ import annotations

import pytest
import torch

from methods.linearize.conversion import linearized
from methods.linearize.decoding import PRODUCTS, fast_step
from methods.study.errors import RetrofitError
from tests.linearize.models import VARIANTS, tiny, tokens


def model(**attention):
    return linearized(tiny(initializer_range=0.15), 0, **({"window": 16} | attention))


@pytest.mark.parametrize(
    "attention", [{}, {"alpha": 0.0, "beta": 1.0}, {"alpha": 0.2, "beta": 0.8}]
)
@pytest.mark.parametrize("prompt", [1, 7, 16, 60])
@torch.no_grad()
def test_steps_give_the_logits_of_the_model(attention, prompt):
    network, x = model(**attention), tokens(rows=1, length=100)
    wanted = network(x, use_cache=False).logits[0]
    decoder, first = fast_step(network, x[:, :prompt])
    found = [first] + [decoder.step(int(t)).clone() for t in x[0, prompt:]]
    error = (torch.stack(found) - wanted[prompt - 1 :]).abs().max()
    assert error < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("weights", sorted(set(PRODUCTS) - {"float32"}))
@torch.no_grad()
def test_narrow_weights_are_near(weights):
    network, x = model(), tokens(rows=1, length=60)
    wanted = network(x, use_cache=False).logits[0, -1]
    try:
        decoder, _ = fast_step(network, x[:, :50], weights)
        found = [decoder.step(int(t)) for t in x[0, 50:]][-1]
    except RuntimeError as error:  # FBGEMM is for x86 only
        pytest.skip(str(error).splitlines()[0])
    assert (found - wanted).norm() < 0.2 * wanted.norm()


@pytest.mark.parametrize("name", ["gsa", "window and sinks", "hybrid", "supra", "learned maps"])
def test_what_the_step_does_not_know_is_named(name):
    network = linearized(tiny(), 0, **VARIANTS[name])
    with pytest.raises(RetrofitError, match="the fast step does not know"):
        fast_step(network, tokens(rows=1))


def test_one_sequence_and_known_weights_only():
    with pytest.raises(RetrofitError, match="one sequence"):
        fast_step(model(), tokens(rows=2))
    with pytest.raises(RetrofitError, match="did you mean 'bfloat16'"):
        fast_step(model(), tokens(rows=1), "bfloat61")

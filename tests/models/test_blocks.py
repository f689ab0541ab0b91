"""Decoder blocks taken one at a time give what the whole model gives."""

import copy

import pytest
import torch

from methods.models.blocks import (
    block_linears,
    decoder_blocks,
    first_block_inputs,
    in_dtype,
    run_block,
)
from methods.study.errors import RetrofitError
from tests.models.tiny import ARCHITECTURES, tiny_model, tiny_tokens


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_block_by_block_equals_the_whole_forward(architecture):
    model = tiny_model(architecture)
    tokens = tiny_tokens(5, 24)
    whole = model(input_ids=tokens, output_hidden_states=True, use_cache=False)
    hidden, kwargs = first_block_inputs(model, tokens, batch=2)
    blocks = decoder_blocks(model)
    assert torch.equal(hidden, whole.hidden_states[0])
    for index, (_, block) in enumerate(blocks):
        hidden = run_block(block, hidden, kwargs, batch=2)
        if index + 1 < len(blocks):  # the last entry of hidden_states is normalised
            torch.testing.assert_close(hidden, whole.hidden_states[index + 1], atol=2e-6, rtol=1e-5)
    norm = getattr(model.get_decoder(), "norm", None) or model.get_decoder().final_layer_norm
    torch.testing.assert_close(norm(hidden), whole.hidden_states[-1], atol=1e-5, rtol=1e-5)


def test_gemma_blocks_get_their_own_masks():
    """Sliding and full blocks differ: the arguments of block 0 are wrong for a full block."""
    model = tiny_model("gemma3")
    _, kwargs = first_block_inputs(model, tiny_tokens(1, 24))
    kinds = model.config.layer_types
    sliding, full = kinds.index("sliding_attention"), kinds.index("full_attention")
    cos_sliding = kwargs.by_index[sliding]["position_embeddings"][0]
    cos_full = kwargs.by_index[full]["position_embeddings"][0]
    assert not torch.equal(cos_sliding, cos_full)


def test_blocks_work_as_before_after_recording_and_when_copied():
    model = tiny_model("llama")
    tokens = tiny_tokens(2, 16)
    before = model(input_ids=tokens).logits
    hidden, kwargs = first_block_inputs(model, tokens)
    assert torch.equal(model(input_ids=tokens).logits, before)
    block = decoder_blocks(model)[1][1]
    twin = copy.deepcopy(block)
    assert torch.equal(run_block(block, hidden, kwargs), run_block(twin, hidden, kwargs))


def test_bfloat16_run_returns_the_exact_weights_and_feeds_hooks():
    model = tiny_model("llama")
    hidden, kwargs = first_block_inputs(model, tiny_tokens(3, 16))
    name, block = decoder_blocks(model)[0]
    assert name == "model.layers.0"
    before = {k: v.clone() for k, v in block.state_dict().items()}
    seen = []
    handle = block.self_attn.q_proj.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    out = run_block(block, hidden, kwargs, batch=1, dtype=torch.bfloat16)
    handle.remove()
    assert out.dtype == torch.bfloat16
    assert [s.dtype for s in seen] == [torch.bfloat16] * 3
    assert all(torch.equal(v, before[k]) for k, v in block.state_dict().items())
    exact = run_block(block, hidden, kwargs)
    assert (out.float() - exact).norm() / exact.norm() < 0.02


def test_in_dtype_restores_after_an_error():
    layer = torch.nn.Linear(3, 3)
    kept = layer.weight.data
    inside = []

    def fail_halfway():
        with in_dtype(layer, torch.bfloat16):
            inside.append(layer.weight.dtype)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert inside == [torch.bfloat16]
    assert layer.weight.data.data_ptr() == kept.data_ptr()


def test_run_in_place_gives_the_same():
    model = tiny_model("qwen2")
    hidden, kwargs = first_block_inputs(model, tiny_tokens(4, 16))
    block = decoder_blocks(model)[0][1]
    fresh = run_block(block, hidden, kwargs, batch=2)
    assert run_block(block, hidden, kwargs, batch=2, out=hidden) is hidden
    assert torch.equal(hidden, fresh)


def test_linears_of_a_block():
    block = decoder_blocks(tiny_model("llama"))[0][1]
    names = list(block_linears(block))
    assert names[:4] == [f"self_attn.{p}_proj" for p in "qkvo"]
    assert names[4:] == [f"mlp.{p}_proj" for p in ("gate", "up", "down")]


def test_a_model_without_blocks_is_refused():
    with pytest.raises(RetrofitError, match="no list of None decoder blocks"):
        decoder_blocks(torch.nn.Sequential(torch.nn.Linear(2, 2)))

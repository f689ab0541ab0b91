"""Every architecture's table of scale groups, proved on a random network of that architecture."""

import pytest
import torch

from methods.models.blocks import block_linears, decoder_blocks
from methods.quantize.fold import fold
from methods.quantize.mappings import (
    TABLE,
    ScaleGroup,
    check_unchanged,
    resolve,
    role_of,
    scale_groups,
)
from methods.study.errors import RetrofitError
from tests.models.tiny import tiny_model, tiny_tokens

MODELS = {
    "llama": {},
    "llama, no shared heads": {"num_key_value_heads": 4},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {},
    "qwen2": {},
    "gemma3": {},
    "opt": {},
}
TOKENS = tiny_tokens(2, 16)


def model_of(name):
    return tiny_model(name.split(",")[0].split()[0], **MODELS[name])


def qwen3():
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def randomise_norms_and_biases(model):
    generator = torch.Generator().manual_seed(9)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("gqa_v_o", ["skip", "exact"])
@pytest.mark.parametrize("name", [*MODELS, "qwen3"])
@torch.no_grad()
def test_any_scales_leave_the_output_alone(name, gqa_v_o):
    model = qwen3() if name == "qwen3" else model_of(name)
    randomise_norms_and_biases(model)
    before = model(input_ids=TOKENS).logits
    generator = torch.Generator().manual_seed(4)
    folded = set()
    for _, block in decoder_blocks(model):
        weights = {n: m.weight.clone() for n, m in block_linears(block).items()}
        places, _ = resolve(block, scale_groups(model), model.config, gqa_v_o)
        for place in places:
            width = next(iter(place.layers.values())).in_features
            size = place.share[0] * place.share[2] if place.share else width
            scale = torch.rand(size, generator=generator) * 3 + 0.2
            channels = fold(place, scale)
            assert channels.shape == (width,)
            folded |= set(place.layers)
        changed = {
            n for n, m in block_linears(block).items() if not torch.equal(m.weight, weights[n])
        }
        assert folded <= changed
    after = model(input_ids=TOKENS).logits
    assert (after - before).norm() < 1e-5 * before.norm()
    shared = model.config.num_attention_heads != getattr(
        model.config, "num_key_value_heads", model.config.num_attention_heads
    )
    wanted = set(block_linears(block))
    if shared and gqa_v_o == "skip":
        wanted -= {"self_attn.o_proj"}
    assert folded == wanted


def test_skipped_groups_say_why():
    model = tiny_model("llama")
    block = decoder_blocks(model)[0][1]
    _, skipped = resolve(block, TABLE["llama"], model.config)
    assert skipped == {"self_attn.v_proj -> self_attn.o_proj": "query heads share value heads"}
    model = tiny_model("opt", activation_function="gelu")
    block = decoder_blocks(model)[0][1]
    places, skipped = resolve(block, TABLE["opt"], model.config)
    assert "does not commute" in skipped["fc1 -> fc2"]
    assert all(place.group.previous != "fc1" for place in places)


def test_unknown_architecture_names_the_known_ones():
    model = tiny_model("llama")
    model.config.model_type = "lama"
    with pytest.raises(RetrofitError, match=r"'lama'; did you mean 'llama'.*qwen2"):
        scale_groups(model)
    model.config.scale_groups_of = "llama"
    assert scale_groups(model) is TABLE["llama"]


def test_norm_after_the_layers_is_refused():
    model = tiny_model("opt", do_layer_norm_before=False)
    with pytest.raises(RetrofitError, match="do_layer_norm_before"):
        scale_groups(model)


def test_table_that_does_not_fit_is_refused():
    model = tiny_model("llama")
    block = decoder_blocks(model)[0][1]
    with pytest.raises(RetrofitError, match=r"do not fit LlamaDecoderLayer.*final_layer_norm"):
        resolve(block, TABLE["opt"][2:3], model.config)
    wrong = ScaleGroup("self_attn.k_proj", ("mlp.down_proj",), None, "linear")
    with pytest.raises(RetrofitError, match="do not feed"):
        resolve(block, (wrong,), model.config)


def test_change_of_the_float_output_is_refused():
    before = torch.randn(2, 4, 8)
    check_unchanged(before, before * (1 + 1e-6), "block")
    with pytest.raises(RetrofitError, match="changed the output of block"):
        check_unchanged(before, before * 1.01, "block")
    with pytest.raises(RetrofitError, match="changed the output"):
        check_unchanged(before, before * float("nan"), "block")


def test_projections_have_the_names_of_a_study():
    assert role_of("self_attn.q_proj") == "q"
    assert role_of("self_attn.out_proj") == role_of("self_attn.o_proj") == "o"
    assert role_of("mixer.in_proj") is None

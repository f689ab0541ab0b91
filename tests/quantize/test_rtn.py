"""Round to nearest as a step, and its way to disk and back."""

import pytest
import torch

from methods.models.language import load
from methods.quantize.grid import Grid, round_to_nearest
from methods.quantize.params import RTN
from methods.quantize.rtn import apply
from methods.quantize.targets import result
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.models.tiny import tiny_model, tiny_tokens
from tests.quantize.stage import tiny_base


@pytest.mark.parametrize("span", ["minmax", "mse"])
@pytest.mark.parametrize("group_size", [16, -1])
def test_every_layer_but_the_head_is_rounded(group_size, span):
    original = tiny_model("qwen2")
    params = RTN(bits=3, group_size=group_size, range=span)
    model = apply(tiny_base("qwen2"), {}, params, Context())
    for name, module in original.named_modules():
        if isinstance(module, torch.nn.Linear):
            weight = model.model.get_submodule(name).weight
            if name == "lm_head":
                assert torch.equal(weight, module.weight)
            else:
                expected = round_to_nearest(module.weight, Grid.of(params), span)
                assert model.quantized[name].same_as(expected)
                assert torch.equal(weight, expected.dequantize())
                assert module.bias is None or torch.equal(
                    model.model.get_submodule(name).bias, module.bias
                )


def test_artifact_keeps_every_bit(tmp_path):
    model = apply(tiny_base(), {}, RTN(bits=3, group_size=16), Context())
    model.tokenizer = None
    model.save(tmp_path)
    again = load(tmp_path)
    tokens = tiny_tokens(2, 12)
    with torch.no_grad():
        assert torch.equal(
            again.model(input_ids=tokens).logits, model.model(input_ids=tokens).logits
        )
    assert all(again.quantized[n].same_as(packed) for n, packed in model.quantized.items())
    with pytest.raises(RetrofitError, match="quantised already"):
        apply(again, {}, RTN(group_size=16), Context())


def test_no_quantised_layer_is_an_error():
    with pytest.raises(RetrofitError, match="quantised no layer"):
        result(tiny_base(), RTN(), {}, {})
    base = tiny_base()
    for block in base.model.model.layers:
        block.self_attn = block.mlp = torch.nn.Identity()
    with pytest.raises(RetrofitError, match="no linear layer"):
        apply(base, {}, RTN(group_size=16), Context())


def test_weights_that_are_not_finite_are_named():
    base = tiny_base()
    base.model.model.layers[1].mlp.up_proj.weight.data[2, 3] = float("nan")
    message = r"rtn: the weight of model.layers.1.mlp.up_proj is not finite"
    with pytest.raises(RetrofitError, match=message):
        apply(base, {}, RTN(bits=3, group_size=16), Context())

"""What a study may say, and what is refused before any job starts."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from methods.quantize.base_params import check
from methods.quantize.params import AWQ, GPTQ, RTN, Salient
from methods.quantize.widths import check_group_size, divisors, widths_of_config
from methods.study.errors import RetrofitError
from methods.study.registry import find

SMOLLM = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 30,
}


@pytest.mark.parametrize("name", ["rtn", "awq", "gptq", "salient"])
def test_methods_are_registered_and_load(name):
    entry = find("method", name)
    assert entry.params().method == name
    assert callable(entry.load())


def test_defaults_are_the_papers():
    params = AWQ()
    assert (params.grid, params.duo, params.include_r1, params.inputs) == (20, False, False, "fp")
    assert (params.clip.grid, params.clip.max_shrink, params.clip.tokens) == (20, 0.5, 512)
    assert params.clip.skip == ["q", "k"]
    assert GPTQ().damping == 0.01
    assert not RTN.stochastic
    assert AWQ.stochastic
    assert RTN.roles == ()
    assert AWQ.roles == GPTQ.roles == Salient.roles == ("calibration",)


@pytest.mark.parametrize(
    ("params", "values", "message"),
    [
        (AWQ, {"bits": 5}, "2, 3, 4 or 8"),
        (RTN, {"bits": 17}, "2, 3, 4 or 8"),
        (AWQ, {"bits": "4"}, "bits"),
        (RTN, {"group_size": 0}, "group_size 0"),
        (RTN, {"group_size": -2}, "group_size -2"),
        (AWQ, {"group_sise": 64}, "did you mean 'group_size'"),
        (AWQ, {"clip": {"max_shrink": 1.0}}, "less than 1"),
        (AWQ, {"clip": {"skip": ["query"]}}, "'q', 'k'"),
        (AWQ, {"duo": "half"}, "both"),
        (AWQ, {"quantize": False, "inputs": "quantized"}, "needs quantize: true"),
        (AWQ, {"search_tokens": 0}, "greater than or equal to 1"),
        (AWQ, {"scales": False, "clip": {"enabled": False}}, "changes nothing"),
        (RTN, {"symmetric": True, "zero_point": "published_code"}, "no zero point"),
        (GPTQ, {"act_order": True, "static_groups": False}, "needs static_groups"),
        (GPTQ, {"range": "output", "static_groups": False, "act_order": False}, "static_groups"),
        (GPTQ, {"damping": 0.0}, "greater than 0"),
        (Salient, {"fraction": 1.5}, "less than or equal to 1"),
        (Salient, {"by": "gradient"}, "'activation', 'weight' or 'random'"),
    ],
)
def test_refused_with_a_reason(params, values, message):
    with pytest.raises(ValidationError, match=message):
        params(**values)


def test_order_without_groups_needs_no_static_groups():
    assert not GPTQ(group_size=-1, static_groups=False).static_groups


def test_group_size_against_a_model_to_be():
    with pytest.raises(RetrofitError) as error:
        check(AWQ(group_size=128), SMOLLM)
    text = str(error.value)
    assert "group_size 128 does not divide" in text
    assert "90 query/key/value projections" in text
    assert "576: 16, 18, 24, 32, 36, 48, 64, 72, 96, 144, 192, 288" in text
    assert "that divide every layer: 16, 24, 32, 48, 64, 96, 192" in text or "every layer" in text
    assert "-1 for one group" in text
    for group_size in (64, 192, -1):
        check(RTN(group_size=group_size), SMOLLM)
    RTN(group_size=64).check_base(SMOLLM)
    with pytest.raises(RetrofitError):
        GPTQ(group_size=128).check_base(SMOLLM)


def test_widths_of_other_configurations():
    gemma = SMOLLM | {"head_dim": 32}
    assert widths_of_config(gemma)["30 attention output projections"] == 288
    nested = {"model_type": "gemma3", "text_config": SMOLLM}
    assert widths_of_config(nested) == widths_of_config(SMOLLM)
    opt = {"hidden_size": 512, "ffn_dim": 2048, "num_attention_heads": 8, "num_hidden_layers": 2}
    assert widths_of_config(opt)["2 first feed-forward projections"] == 512
    # What a configuration does not say is checked when the model is there.
    assert widths_of_config({"model_type": "novel"}) == {}
    check(RTN(group_size=7), {"model_type": "novel"})


def test_quantised_base_is_refused_when_planning():
    with pytest.raises(RetrofitError, match="quantised already"):
        check(AWQ(), SMOLLM | {"quantization_config": {"quant_method": "awq"}})


def test_layers_are_counted_or_named():
    with pytest.raises(RetrofitError, match=r"1 layer \(down\)"):
        check_group_size({"up": 64, "down": 96}, 64)
    with pytest.raises(RetrofitError, match=r"5 of 6 layers \(l0, l1, l2, …, l4\)"):
        check_group_size({f"l{i}": 48 for i in range(5)} | {"ok": 64}, 32)
    assert divisors(48) == [16, 24]


def test_parameters_need_no_torch():
    code = "import sys, methods.quantize.params; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""GPTQ as a whole step: which layers share inputs, propagation, resuming, bad input."""

import pytest
import torch

from methods.models.blocks import block_linears, decoder_blocks, first_block_inputs
from methods.quantize import gptq
from methods.quantize.features import shared_inputs
from methods.quantize.params import AWQ, GPTQ, RTN
from methods.quantize.rtn import apply as rtn
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.models.tiny import ARCHITECTURES, tiny_model, tiny_tokens
from tests.quantize.stage import calibration, tiny_base

EXACT = {"compute_dtype": "float32", "scale_dtype": "float32"}
TOKENS = tiny_tokens(3, 20)


@torch.no_grad()
def logits(model):
    return model.model(input_ids=TOKENS).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_with_one_input_are_found(architecture):
    model = tiny_model(architecture)
    hidden, arguments = first_block_inputs(model, TOKENS)
    block = decoder_blocks(model)[0][1]
    groups = [
        [name.rpartition(".")[2] for name in names]
        for names in shared_inputs(block, block_linears(block), hidden, arguments)
    ]
    if architecture == "opt":
        assert sorted(map(sorted, groups)) == [
            ["fc1"],
            ["fc2"],
            ["k_proj", "q_proj", "v_proj"],
            ["out_proj"],
        ]
    else:
        assert groups == [
            ["q_proj", "k_proj", "v_proj"],
            ["o_proj"],
            ["gate_proj", "up_proj"],
            ["down_proj"],
        ]


def test_a_layer_that_is_never_called_is_named():
    model = tiny_model("llama")
    hidden, arguments = first_block_inputs(model, TOKENS)
    block = decoder_blocks(model)[0][1]
    block.spare = torch.nn.Linear(32, 32)
    with pytest.raises(RetrofitError, match="spare"):
        shared_inputs(block, block_linears(block), hidden, arguments)


@pytest.mark.parametrize("order", ["block", "layer"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "opt"])
def test_every_layer_is_on_its_grid_and_better_than_rounded(architecture, order):
    before = logits(tiny_base(architecture))
    plain = rtn(tiny_base(architecture), {}, RTN(bits=3, group_size=16), Context())
    params = GPTQ(bits=3, group_size=16, order=order, **EXACT)
    context = Context()
    ours = gptq.apply(tiny_base(architecture), calibration(windows=16), params, context)
    assert set(ours.quantized) == set(plain.quantized)
    for name, packed in ours.quantized.items():
        assert torch.equal(ours.model.get_submodule(name).weight, packed.dequantize())
    error = [float((logits(model) - before).norm()) for model in (ours, plain)]
    assert error[0] < error[1]
    assert len(context.history) == len(ours.quantized)
    assert all(row["loss"] > 0 for row in context.history)


def test_true_sequential_differs_after_the_first_layers():
    packed = {}
    for order in ("block", "layer"):
        params = GPTQ(bits=2, group_size=16, order=order, **EXACT)
        packed[order] = gptq.apply(tiny_base(), calibration(), params, Context()).quantized
    first = "model.layers.0.self_attn.q_proj"
    assert packed["block"][first].same_as(packed["layer"][first])
    later = "model.layers.0.self_attn.o_proj"
    assert not packed["block"][later].same_as(packed["layer"][later])


def test_calibration_decides():
    params = GPTQ(bits=3, group_size=16)
    runs = [
        gptq.apply(tiny_base(), calibration(windows=20, take=3), params, Context(seed=seed))
        for seed in (0, 0, 1)
    ]
    first, same, other = (logits(model) for model in runs)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_resumed_run_gives_the_same_bits(tmp_path, monkeypatch):
    params = GPTQ(bits=3, group_size=16)
    whole_context = Context()
    whole = gptq.apply(tiny_base(), calibration(), params, whole_context)
    monkeypatch.setattr(gptq, "SECONDS_BETWEEN_CHECKPOINTS", 0)

    class StopError(Exception):
        pass

    class Interrupted(Context):
        def progress(self, iterable, total=None, label=""):
            for index, item in enumerate(iterable):
                if index == 2:
                    raise StopError
                yield item

    first = Interrupted()
    first.checkpoint = Checkpoint(tmp_path, first.history)
    with pytest.raises(StopError):
        gptq.apply(tiny_base(), calibration(), params, first)
    second = Context()
    second.checkpoint = Checkpoint(tmp_path, second.history)
    rounded = []
    monkeypatch.setattr(
        gptq, "round_block", lambda *a, f=gptq.round_block: rounded.append(a[0]) or f(*a)
    )
    resumed = gptq.apply(tiny_base(), calibration(), params, second)
    assert rounded == ["model.layers.2"]
    assert torch.equal(logits(resumed), logits(whole))
    assert all(whole.quantized[n].same_as(resumed.quantized[n]) for n in whole.quantized)
    assert second.history == whole_context.history


def test_after_scales_of_awq_it_starts_from_their_model():
    from methods.quantize.awq import apply as awq

    scaled = awq(
        tiny_base(),
        calibration(),
        AWQ(bits=3, group_size=16, grid=4, quantize=False, clip={"enabled": False}),
        Context(),
    )
    chained = gptq.apply(scaled, calibration(), GPTQ(bits=3, group_size=16), Context())
    alone = gptq.apply(tiny_base(), calibration(), GPTQ(bits=3, group_size=16), Context())
    assert [list(step) for step in chained.notes["quantize"]] == [["awq"], ["gptq"]]
    assert not torch.equal(logits(chained), logits(alone))


def test_dead_inputs_are_survived():
    base = tiny_base("opt")
    for _, block in decoder_blocks(base.model):
        block.fc1.weight.data[5] = 0
        block.fc1.bias.data[5] = -1  # ReLU never lets it through
    model = gptq.apply(base, calibration(), GPTQ(bits=3, group_size=16), Context())
    assert torch.isfinite(logits(model)).all()
    name = "model.decoder.layers.0.fc2"
    assert (model.quantized[name].dequantize()[:, 5] == 0).all()


def test_not_a_number_names_the_layer():
    base = tiny_base()
    base.model.model.layers[1].post_attention_layernorm.weight.data[0] = float("nan")
    with pytest.raises(RetrofitError, match=r"input of model\.layers\.1\.mlp\.gate_proj"):
        gptq.apply(base, calibration(), GPTQ(group_size=16), Context())


def test_bad_requests_are_refused():
    with pytest.raises(RetrofitError, match="does not divide"):
        gptq.apply(tiny_base(), calibration(), GPTQ(group_size=24), Context())
    done = rtn(tiny_base(), {}, RTN(group_size=16), Context())
    with pytest.raises(RetrofitError, match="quantised already"):
        gptq.apply(done, calibration(), GPTQ(group_size=16), Context())

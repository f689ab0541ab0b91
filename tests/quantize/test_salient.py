"""The salient-channel analysis: which channels, what is kept, how steps change."""

import pytest
import torch

from methods.models.blocks import decoder_blocks
from methods.quantize.grid import Grid, pseudo_quantize
from methods.quantize.params import RTN, Salient
from methods.quantize.rtn import apply as rtn
from methods.quantize.salient import StepAnalysis, apply, keep, scale
from methods.run.context import Context
from tests.models.tiny import tiny_model, tiny_tokens
from tests.quantize.stage import calibration, tiny_base

GRID = Grid(3, 16)
WEIGHT = torch.randn(24, 64, generator=torch.Generator().manual_seed(6))
CHOSEN = torch.tensor([3, 40])
TOKENS = tiny_tokens(3, 20)


def base_with_large_channels():
    """Channels 2 and 13 of what attention and feed-forward read are large."""
    base = tiny_base()
    for _, block in decoder_blocks(base.model):
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight.data[[2, 13]] *= 12
    return base


def kept_columns(model, original, layer):
    weight, before = (m.get_submodule(layer).weight for m in (model.model, original))
    return (weight == before).all(0).nonzero().flatten().tolist()


def test_keeping_leaves_columns_as_they_were():
    new = keep(WEIGHT, CHOSEN, GRID)
    rounded = pseudo_quantize(WEIGHT, GRID)
    assert torch.equal(new[:, CHOSEN], WEIGHT[:, CHOSEN])
    rest = [c for c in range(64) if c not in CHOSEN]
    assert torch.equal(new[:, rest], rounded[:, rest])


def test_scaling_lowers_the_chosen_channels_error():
    errors = []
    for s in (1.0, 1.5):
        new = scale(WEIGHT, CHOSEN, s, GRID)
        errors.append((new - WEIGHT)[:, CHOSEN].abs().mean())
    assert torch.equal(scale(WEIGHT, CHOSEN, 1.0, GRID), pseudo_quantize(WEIGHT, GRID))
    assert errors[1] < 0.85 * errors[0]


def test_step_analysis():
    for s in (1.0, 2.0, 50.0):
        analysis = StepAnalysis()
        analysis.add(WEIGHT, CHOSEN, s, GRID)
        found = {name: metric.value for name, metric in analysis.metrics().items()}
        if s == 1:
            assert found == {"step/changed": 0, "step/ratio": 1, "step/salient_error_ratio": 1}
        elif s == 2:
            # Only groups 0 and 2 of 4 hold a chosen channel.
            assert 0 < found["step/changed"] <= 0.5
            assert 1 < found["step/ratio"] < 1.5
            assert 0.5 < found["step/salient_error_ratio"] < 0.8
        else:
            assert found["step/changed"] == 0.5
            assert found["step/ratio"] > 3


def test_activation_finds_the_channels_that_are_large():
    model = apply(
        base_with_large_channels(),
        calibration(),
        Salient(fraction=2 / 32, bits=3, group_size=16),
        Context(),
    )
    original = base_with_large_channels().model
    assert kept_columns(model, original, "model.layers.1.self_attn.q_proj") == [2, 13]
    assert kept_columns(model, original, "model.layers.2.mlp.up_proj") == [2, 13]
    assert not model.quantized


@pytest.mark.parametrize("by", ["weight", "random"])
def test_other_choices(by):
    columns = []
    for seed in (0, 0, 1):
        params = Salient(by=by, fraction=2 / 32, bits=3, group_size=16)
        model = apply(tiny_base(), {}, params, Context(seed=seed))
        columns.append(kept_columns(model, tiny_model("llama"), "model.layers.1.mlp.up_proj"))
    assert len(columns[0]) == 2
    assert columns[0] == columns[1]
    assert (columns[0] == columns[2]) == (by == "weight")
    if by == "weight":
        norms = tiny_model("llama").model.layers[1].mlp.up_proj.weight.norm(dim=0)
        assert columns[0] == sorted(norms.topk(2).indices.tolist())


def test_nothing_and_everything():
    with torch.no_grad():
        dense, rounded = tiny_base(), rtn(tiny_base(), {}, RTN(bits=3, group_size=16), Context())
        for fraction, expected in ((0.0, rounded), (1.0, dense)):
            params = Salient(fraction=fraction, bits=3, group_size=16, by="random")
            model = apply(tiny_base(), {}, params, Context())
            assert torch.equal(
                model.model(input_ids=TOKENS).logits, expected.model(input_ids=TOKENS).logits
            )


def test_keeping_large_channels_helps_most():
    with torch.no_grad():
        target = base_with_large_channels().model(input_ids=TOKENS).logits
        error = {}
        for by in ("activation", "random"):
            params = Salient(by=by, fraction=2 / 32, bits=2, group_size=16)
            model = apply(base_with_large_channels(), calibration(), params, Context())
            error[by] = float((model.model(input_ids=TOKENS).logits - target).norm())
    assert error["activation"] < 0.9 * error["random"]


def test_scaling_reports_the_papers_analysis():
    params = Salient(action="scale", scale=2.0, fraction=2 / 32, bits=3, group_size=16)
    model = apply(tiny_base(), calibration(), params, Context())
    assert set(model.metrics) == {"step/changed", "step/ratio", "step/salient_error_ratio"}
    assert model.notes["quantize"][0]["salient"]["action"] == "scale"

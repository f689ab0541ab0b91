"""AWQ as a whole step: against a plain reference, resumed, on bad input."""

from types import SimpleNamespace

import pytest
import torch

from methods.models.blocks import decoder_blocks, first_block_inputs
from methods.quantize import awq
from methods.quantize.calibration import calibration_windows
from methods.quantize.grid import Grid, pseudo_quantize
from methods.quantize.mappings import resolve, scale_groups
from methods.quantize.params import AWQ, RTN
from methods.quantize.rtn import apply as rtn
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.models.tiny import ARCHITECTURES, tiny_model, tiny_tokens
from tests.quantize.stage import calibration, tiny_base

EXACT = {
    "compute_dtype": "float32",
    "search_tokens": None,
    "screen_tokens": None,
    "scale_dtype": "float32",
}
TOKENS = tiny_tokens(3, 20)


@torch.no_grad()
def logits(model):
    return model.model(input_ids=TOKENS).logits


def state(model):
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def reference_awq(model, tokens, bits, group_size, grid_size, clip):
    """The published procedure, sample by sample, with weights copied back after every trial."""
    quantize = lambda w: pseudo_quantize(w, Grid(bits, group_size))  # noqa: E731
    chosen = []
    hidden, arguments = first_block_inputs(model, tokens)
    for _, block in decoder_blocks(model):
        call = lambda module, x: module(x, **arguments.of(block))  # noqa: E731, B023
        features, hooks = {}, []
        for name, module in block.named_modules():
            if isinstance(module, torch.nn.Linear):
                features[name] = []
                hooks.append(
                    module.register_forward_pre_hook(
                        lambda _, args, kept=features[name]: kept.append(args[0])
                    )
                )
        outputs = torch.cat([call(block, hidden[i : i + 1]) for i in range(len(hidden))])
        for hook in hooks:
            hook.remove()
        features = {name: torch.cat(parts) for name, parts in features.items()}
        for place in resolve(block, scale_groups(model), model.config)[0]:
            x = features[place.group.layers[0]]
            magnitude = x.flatten(0, -2).abs().mean(0)
            whole = place.group.mixes_tokens

            def out(x=x, place=place, whole=whole):
                result = [
                    place.inspect(x[i : i + 1], **(arguments.of(block) if whole else {}))  # noqa: B023
                    for i in range(len(x))
                ]
                return torch.cat([r[0] if isinstance(r, tuple) else r for r in result])

            target, best = out(), None
            for step in range(grid_size):
                s = magnitude.pow(step / grid_size).clamp(min=1e-4)
                s = s / (s.max() * s.min()).sqrt()
                kept = [layer.weight.clone() for layer in place.layers.values()]
                for layer in place.layers.values():
                    layer.weight.copy_(quantize(layer.weight * s) / s)
                loss = float((out() - target).square().mean())
                for layer, weight in zip(place.layers.values(), kept, strict=True):
                    layer.weight.copy_(weight)
                if best is None or loss < best[0]:
                    best = (loss, step / grid_size, s)
            s = best[2]
            chosen.append((best[1], best[0]))
            for name, layer in place.layers.items():
                layer.weight.mul_(s)
                features[name] = features[name] / s
            if place.group.kind == "norm":
                place.previous.weight.div_(s)
                if getattr(place.previous, "bias", None) is not None:
                    place.previous.bias.div_(s)
            else:
                place.previous.weight.div_(s[:, None])
                if place.previous.bias is not None:
                    place.previous.bias.div_(s)
        for name, x in features.items():
            layer = block.get_submodule(name)
            if clip and name.split(".")[-1] not in ("q_proj", "k_proj"):
                w = layer.weight.view(layer.out_features, -1, group_size)
                xg = x.flatten(0, -2).view(-1, w.shape[1], group_size)
                maximum = w.abs().amax(-1, keepdim=True)
                lowest, limit = None, maximum.clone()
                for i in range(10):
                    bound = maximum * (1 - i / 20)
                    q = quantize(torch.clamp(w, -bound, bound).view_as(layer.weight)).view_as(w)
                    error = torch.einsum("ngc,ogc->nog", xg, q - w).square().mean(0)[..., None]
                    limit = limit if lowest is None else torch.where(error < lowest, bound, limit)
                    lowest = error if lowest is None else torch.minimum(lowest, error)
                layer.weight.copy_(torch.clamp(w, -limit, limit).view_as(layer.weight))
            layer.weight.copy_(quantize(layer.weight))
        hidden = outputs
    return chosen


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("case", ["llama", "llama, no shared heads", "opt"])
@torch.no_grad()
def test_agrees_with_the_procedure_written_out(case, clip):
    architecture, _, separate = case.partition(",")
    changes = {"num_key_value_heads": 4} if separate else {}
    base = tiny_base(architecture, **changes)
    data, context = calibration(windows=6), Context()
    windows = calibration_windows(data, base.tokenizer, context)
    expected = tiny_model(architecture, **changes)
    chosen = reference_awq(expected, windows, 3, 16, 5, clip)
    params = AWQ(bits=3, group_size=16, grid=5, clip={"enabled": clip, "tokens": None}, **EXACT)
    ours = awq.apply(base, data, params, context)
    rows = [row for row in context.history if "r" in row]
    assert [row["r"] for row in rows] == [r for r, _ in chosen]
    for row, (_, loss) in zip(rows, chosen, strict=True):
        assert row["loss_best"] == pytest.approx(loss, rel=1e-3)
    for (name, mine), theirs in zip(
        base.model.named_parameters(), expected.parameters(), strict=True
    ):
        # A group clipped on both sides has its zero point on a rounding tie: one more or one less,
        # which then decides between limits.
        off = ((mine - theirs).abs() > 1e-4 * theirs.abs().max()).float().mean()
        assert off < (0.08 if clip else 0.01), name
    assert ours.quantized


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_of_every_block_is_on_its_grid(architecture):
    base = tiny_base(architecture)
    params = AWQ(bits=3, group_size=16, grid=4, gqa_v_o="exact")
    context = Context()
    model = awq.apply(base, calibration(), params, context)
    layers = {n for n, m in base.model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert set(model.quantized) == layers - {"lm_head"}
    for name, packed in model.quantized.items():
        weight = model.model.get_submodule(name).weight
        assert torch.equal(weight, packed.dequantize().to(weight.dtype))
        assert len(packed.dequantize()[0, :16].unique()) <= 8
    assert all(row["loss_best"] <= row["loss_rtn"] for row in context.history if "r" in row)
    assert model.notes["base"] == "tiny"
    assert model.notes["quantize"][0]["awq"]["bits"] == 3
    assert 0 < model.metrics["scale_search/loss_ratio"].value <= 1


def test_scales_alone_leave_the_float_model_alone():
    base = tiny_base()
    before = logits(base)
    params = AWQ(group_size=16, quantize=False, clip={"enabled": False}, gqa_v_o="exact")
    model = awq.apply(base, calibration(), params, Context())
    assert not model.quantized
    after = logits(model)
    assert 0 < (after - before).norm() < 1e-5 * before.norm()
    then = rtn(model, {}, RTN(group_size=16), Context())
    direct = awq.apply(
        tiny_base(), calibration(), params.model_copy(update={"quantize": True}), Context()
    )
    assert all(then.quantized[n].same_as(direct.quantized[n]) for n in direct.quantized)


def test_clip_alone_after_scales_is_both_at_once():
    # Scales do not depend on limits, so studies can share the costly search between variants.
    grid = {"bits": 3, "group_size": 16, "grid": 4, "compute_dtype": "float32"}
    both = awq.apply(tiny_base(), calibration(), AWQ(**grid), Context())
    scales = AWQ(**grid, quantize=False, clip={"enabled": False})
    scaled = awq.apply(tiny_base(), calibration(), scales, Context())
    chained = awq.apply(scaled, calibration(), AWQ(**grid, scales=False), Context())
    for name, packed in both.quantized.items():
        off = chained.quantized[name].dequantize() - packed.dequantize()
        assert (off.abs() > 1e-4).float().mean() < 0.08, name


def test_screening_judges_few_and_always_no_scale():
    context = Context()
    params = AWQ(bits=3, group_size=16, screen_tokens=24, shortlist=2, search_tokens=None)
    awq.apply(tiny_base(), calibration(), params, context)
    rows = [row for row in context.history if "r" in row]
    assert all(row["loss_best"] <= row["loss_rtn"] for row in rows)
    assert any(row["r"] > 0 for row in rows)


def outlier_base():
    """A model some of whose features are large, as trained ones' are."""
    base = tiny_base()
    for _, block in decoder_blocks(base.model):
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            norm.weight.data[::11] *= 8
    return base


def test_scales_help_where_channels_are_salient():
    before = logits(outlier_base())
    error = {}
    for name, apply, params in (
        ("rtn", rtn, RTN(bits=3, group_size=16)),
        ("awq", awq.apply, AWQ(bits=3, group_size=16, **EXACT)),
    ):
        model = apply(outlier_base(), calibration(), params, Context())
        error[name] = float((logits(model) - before).norm())
    assert error["awq"] < 0.9 * error["rtn"]


@pytest.mark.parametrize("inputs", ["fp", "quantized"])
def test_resumed_run_gives_the_same_bits(inputs, tmp_path, monkeypatch):
    params = AWQ(bits=3, group_size=16, grid=4, inputs=inputs, gqa_v_o="exact")
    whole_context = Context()
    whole = awq.apply(tiny_base(), calibration(), params, whole_context)
    monkeypatch.setattr(awq, "SECONDS_BETWEEN_CHECKPOINTS", 0)

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
        awq.apply(tiny_base(), calibration(), params, first)
    second = Context()
    second.checkpoint = Checkpoint(tmp_path, second.history)
    searched = []
    monkeypatch.setattr(
        awq, "search_block", lambda *a, f=awq.search_block: searched.append(a[0]) or f(*a)
    )
    resumed = awq.apply(tiny_base(), calibration(), params, second)
    assert searched == ["model.layers.2"]
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(resumed)[name]), name
    assert all(whole.quantized[n].same_as(resumed.quantized[n]) for n in whole.quantized)
    assert second.history == whole_context.history
    assert resumed.metrics == whole.metrics


def test_same_seed_same_bits_and_other_seed_other_windows():
    params = AWQ(bits=3, group_size=16, grid=4)
    runs = [
        awq.apply(tiny_base(), calibration(windows=20, take=3), params, Context(seed=seed))
        for seed in (0, 0, 1)
    ]
    first, same, other = (logits(model) for model in runs)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_fewer_tokens_than_the_clip_sample():
    params = AWQ(bits=3, group_size=16, grid=4)
    assert params.clip.tokens == 512
    assert awq.apply(tiny_base(), calibration(windows=1), params, Context()).quantized


def test_one_group_per_channel():
    model = awq.apply(tiny_base(), calibration(), AWQ(bits=3, group_size=-1, grid=4), Context())
    assert all(packed.groups == 1 for packed in model.quantized.values())


def test_every_sequence_of_a_batch_counts():
    # Decoder layers return a tensor: `layer(...)[0]` would be the first sequence of a batch.
    params = AWQ(bits=3, group_size=16, grid=4, **EXACT)
    data = calibration(windows=4)
    document = data["calibration"][0].documents[0]
    one = SimpleNamespace(
        name="one", documents=[document[:24] * 4], options=data["calibration"][0].options
    )
    records = []
    for text in (data["calibration"][0], one):
        context = Context()
        awq.apply(tiny_base(), {"calibration": [text]}, params, context)
        records.append([row.get("loss_best") for row in context.history])
    assert records[0] != records[1]


def test_quantized_inputs_change_later_blocks_only():
    rows = {}
    for inputs in ("fp", "quantized"):
        context = Context()
        params = AWQ(bits=2, group_size=16, grid=4, inputs=inputs)
        awq.apply(tiny_base(), calibration(), params, context)
        rows[inputs] = context.history
    first = [[row for row in rows[i] if row["block"] == 0] for i in rows]
    assert first[0] == first[1]
    assert rows["fp"] != rows["quantized"]


def test_not_a_number_names_the_module():
    base = tiny_base()
    base.model.model.layers[1].post_attention_layernorm.weight.data[0] = float("nan")
    with pytest.raises(RetrofitError, match=r"input of model\.layers\.1\.mlp\.gate_proj"):
        awq.apply(base, calibration(), AWQ(group_size=16), Context())


def test_bad_requests_are_refused_before_any_work():
    base, data = tiny_base(), calibration()
    before = state(base)
    with pytest.raises(RetrofitError, match=r"group_size 24 does not divide.*21 of 21 layers"):
        awq.apply(base, data, AWQ(group_size=24), Context())
    with pytest.raises(RetrofitError, match="needs a base"):
        awq.apply(None, data, AWQ(group_size=16), Context())
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(base).items())
    done = rtn(base, {}, RTN(group_size=16), Context())
    with pytest.raises(RetrofitError, match="quantised already"):
        awq.apply(done, data, AWQ(group_size=16), Context())

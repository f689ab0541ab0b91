"""Fine-tuning a tiny language model: what is trained, what comes back, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from methods.fit import loop
from methods.fit.causal_lm import IGNORED, packed, rate, training_windows, tune
from methods.fit.params import LoRA, Tuning
from methods.linearize import liger, lolcats, supra
from methods.linearize.params import Liger, Lolcats, Supra
from methods.models import language
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.models.tiny import tiny_tokens
from tests.quantize.stage import Characters, text, tiny_base

TUNING = {"length": 24, "batch": 2, "tokens": 24 * 2 * 6, "learning_rate": 1e-2}


def tuning(**changes) -> Tuning:
    return Tuning(**(TUNING | {"compute_dtype": "float32"} | changes))


def data():
    return {"train": [text(windows=12)]}


def logits(model):
    return model(tiny_tokens(2, 24)).logits


def tuned(context=None, **changes):
    base = tiny_base()
    return tune(base.model, data(), base.tokenizer, tuning(**changes), context or Context())


def test_adapters_are_merged_and_lower_the_loss():
    context = Context()
    model = tuned(context, tokens=24 * 2 * 40)
    losses = [row["loss"] for row in context.history]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not any(p.requires_grad for p in model.parameters())
    before = tiny_base().model
    changed = {
        name.rpartition(".")[0].rpartition(".")[2]
        for name, weight in model.state_dict().items()
        if not torch.equal(weight, before.state_dict()[name])
    }
    assert changed == {"q_proj", "k_proj", "v_proj"}


def test_frozen_weights_come_back_to_the_bit_from_bfloat16():
    model, before = tuned(compute_dtype="bfloat16"), tiny_base().model
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.state_dict()[name], before.state_dict()[name])
    assert model.state_dict()[name].dtype == torch.float32


@pytest.mark.parametrize("method", ["lora", "liger", "lolcats", "supra"])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch, method):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def run(context):
        base = tiny_base()
        if method == "lora":
            return tune(base.model, data(), base.tokenizer, tuning(), context)
        if method == "liger":
            params = Liger(window=8, train=tuning(), feature_map="hedgehog")
            return liger.apply(base, data(), params, context).model
        if method == "supra":
            return supra.apply(base, data(), Supra(train=tuning()), context).model
        params = Lolcats(window=8, train=tuning(), transfer_tokens=24 * 2 * 4)
        return lolcats.apply(base, data(), params, context).model

    whole = run(Context())

    class KilledError(Exception):
        pass

    context = Context(checkpoint=Checkpoint(tmp_path / "kept"))
    steps = iter(range(100))
    real = torch.optim.AdamW.step

    def dies(self, *rest):
        if next(steps) == (7 if method == "lolcats" else 4):
            raise KilledError
        return real(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", dies)
    with pytest.raises(KilledError):
        run(context)
    monkeypatch.setattr(torch.optim.AdamW, "step", real)
    again = run(Context(checkpoint=Checkpoint(tmp_path / "kept")))
    assert torch.equal(logits(again), logits(whole))


def test_attention_transfer_lowers_the_error_of_the_maps():
    context = Context()
    params = Lolcats(window=4, train=tuning(tokens=0), transfer_tokens=24 * 2 * 30)
    lolcats.apply(tiny_base(), data(), params, context)
    errors = [row["transfer"] for row in context.history if "transfer" in row]
    assert len(errors) == 30
    assert sum(errors[-5:]) < 0.9 * sum(errors[:5])


def test_a_linearised_model_is_an_artifact_that_loads_back(tmp_path):
    done = liger.apply(tiny_base(), data(), Liger(window=8, train=tuning()), Context())
    done.tokenizer = None
    done.save(tmp_path)
    again = language.load(tmp_path)
    assert torch.equal(logits(again.model), logits(done.model))
    assert again.registers == ("methods.linearize.modeling",)


def test_awq_and_rounding_follow_a_linearisation():
    from methods.quantize import awq
    from methods.quantize.params import AWQ

    done = liger.apply(tiny_base(), data(), Liger(window=8, train=tuning(tokens=0)), Context())
    reference = logits(done.model)
    params = AWQ(bits=8, group_size=16, compute_dtype="float32", clip={"enabled": False})
    packed_model = awq.apply(done, {"calibration": [text()]}, params, Context())
    assert len(packed_model.quantized) == 21
    assert (logits(packed_model.model) - reference).norm() < 0.1 * reference.norm()


def test_nothing_to_train_leaves_the_model():
    base = tiny_base()
    assert tune(base.model, data(), base.tokenizer, tuning(tokens=0), Context()) is base.model
    with pytest.raises(RetrofitError, match="nothing to train"):
        tune(base.model, data(), base.tokenizer, tuning(lora=None), Context())


def test_rates_rise_and_fall():
    plan = tuning(schedule="cosine", warm_up=0.5, learning_rate=1.0)
    found = [rate(plan, step) for step in range(6)]
    assert found[0] < found[1]
    assert found[-1] < 0.2
    assert [rate(tuning(learning_rate=0.5), step) for step in range(6)] == [0.5] * 6


class Words(Characters):
    eos_token_id = 2

    def __call__(self, text, add_special_tokens=True, **_):
        return {"input_ids": [3 + ord(c) % 90 for c in text]}


def instructions():
    documents = [f"Ask {i}\n### Response:\nyes {i}" for i in range(6)]
    return SimpleNamespace(
        name="alpaca.train", documents=documents, titles=[str(i) for i in range(6)], options={}
    )


def test_packed_instructions_are_predicted_on_answers_only_and_start_anew():
    found = packed(instructions(), Words(), 20, "### Response:\n")
    assert found.tokens.shape == found.labels.shape == found.positions.shape
    answers = found.labels != IGNORED
    assert torch.equal(found.labels[answers], found.tokens[answers])
    assert 0 < answers.sum() < answers.numel()
    assert (found.positions[:, 0] == 0).all()
    starts = (found.positions[:, 1:] == 0).sum()
    assert starts > 0
    one = packed(instructions(), Words(), 29, "### Response:\n")
    assert one.positions[0].tolist() == [*range(26), 0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 4000, "tokens": 8000}, "less than one"),
        ({"loss_on": "answer"}, "has no '### Response:'"),
    ],
)
def test_texts_that_do_not_serve_are_refused(change, message):
    own = data()
    own["train"][0].titles = ["letters"]
    with pytest.raises(RetrofitError, match=message):
        training_windows(own, Words(), tuning(**change))


def test_a_budget_below_one_update_is_refused():
    with pytest.raises(ValueError, match="less than one update"):
        Tuning(tokens=100, length=512)
    with pytest.raises(ValueError, match="at least 1 item"):
        LoRA(targets=[])


def test_no_text_and_no_tokenizer_are_said():
    with pytest.raises(RetrofitError, match="give the study"):
        training_windows({}, Words(), tuning())
    with pytest.raises(RetrofitError, match="needs a tokenizer"):
        training_windows(data(), None, tuning())


@pytest.mark.parametrize(
    "wrong", [{"gate": "glaa"}, {"window": 0}, {"alpha": 0, "beta": 0}, {"pool_size": 4}]
)
def test_settings_of_liger_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"gla|greater than or equal|no attention|is for gsa"):
        Liger(**wrong)

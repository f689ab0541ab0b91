"""Training and what it leaves: adapters that load to the same bits, a base that nothing touched."""

import copy
import json

import pytest
import torch
from peft import PeftModel

from methods.adapt.prompt_tuning import adapters
from methods.adapt.prompt_tuning import apply as apply_module
from methods.adapt.prompt_tuning.apply import apply
from methods.adapt.prompt_tuning.params import (
    Dept,
    Ept,
    PromptTuning,
    TextFineTune,
    TextLora,
    TextProbe,
)
from methods.adapt.prompt_tuning.training import factor
from methods.run.checkpoint import Checkpoint
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.adapt.prompt_tuning.toys import causal, data
from tests.models.tiny_encoder import tiny_encoder, tiny_seq2seq

COMMON = {"length": 10, "batch": 8, "steps": 6, "warm_up": 1}
PROMPT = {**COMMON, "tokens": 3, "budget": 6, "learning_rate": 0.1}
OFF = {"fusion": "none", "spaces": 0}
METHODS = {
    "prompt_tuning": PromptTuning(**COMMON, tokens=4, learning_rate=0.1),
    "dept": Dept(**PROMPT),
    "ept": Ept(**PROMPT),
    "text_lora": TextLora(**COMMON, rank=2),
    "text_finetune": TextFineTune(**COMMON),
    "text_probe": TextProbe(**COMMON),
}
WORDS = {"reviews": {"negative": "bad", "positive": "good"}}
BASES = {"encoder": tiny_encoder, "seq2seq": tiny_seq2seq, "causal": causal}
TARGETS = {"encoder": ["query"], "seq2seq": ["q"], "causal": ["q_proj"]}


def on_words(params, kind):
    changes = {"words": WORDS} if kind != "encoder" else {}
    if isinstance(params, TextLora):
        changes["targets"] = TARGETS[kind]
    return type(params).model_validate({**params.model_dump(), **changes})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", BASES)
def test_adapters_load_to_the_same_bits_and_the_base_is_untouched(kind, method, tmp_path):
    base = BASES[kind]()
    before = copy.deepcopy(base.model.state_dict())
    params = on_words(METHODS[method], kind)
    made = apply(base, data(), params, Context())
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and not p.requires_grad for p in base.model.parameters())
    made.save(tmp_path)
    again = adapters.load(tmp_path)
    assert again.params == params
    test = data()["test"][0]
    scores = again.classifier(base).scores(test.documents)
    assert torch.equal(scores, made.tasks["reviews"].scores)
    assert torch.equal(again.tasks["reviews"].scores, scores)


@pytest.mark.parametrize("method", METHODS)
def test_metrics_have_a_value_for_each_task(method):
    made = apply(tiny_encoder(), data("first", "second"), METHODS[method], Context())
    accuracy = made.metrics["accuracy"]
    assert accuracy.labels == ["first", "second"]
    assert accuracy.values == [made.metrics[f"accuracy/{name}"].value for name in accuracy.labels]
    counts = {"prompt_tuning": 64, "text_probe": 0, "text_lora": 2 * 2 * 2 * 2 * 16}
    counts["dept"] = 3 * 16 + (3 * 16 // 26) * 26
    counts["ept"] = counts["dept"] + 2 * 4 * 16 * 4 + 4 * 17
    if method in counts:
        assert made.metrics["parameters"].value == counts[method]


def test_a_prompt_alone_can_teach_a_frozen_model_the_task():
    params = Ept(**{**PROMPT, "steps": 80, "warm_up": 5, "tokens": 4}, words=WORDS)
    made = apply(causal(), data(), params, Context(seed=2))
    assert made.metrics["accuracy"].value == 1.0
    untuned = apply(causal(), data(), TextProbe(**COMMON, words=WORDS), Context(seed=2))
    assert untuned.metrics["accuracy"].value < 0.8


def test_ept_without_its_parts_trains_as_dept_does():
    tuned = [
        apply(tiny_encoder(), data(), params, Context()).tasks["reviews"]
        for params in (Dept(**PROMPT), Ept(**PROMPT, **OFF))
    ]
    assert tuned[0].tensors.keys() == tuned[1].tensors.keys()
    for name, tensor in tuned[0].tensors.items():
        assert torch.equal(tensor, tuned[1].tensors[name])
    assert torch.equal(tuned[0].scores, tuned[1].scores)


def test_without_an_update_dept_trains_as_peft_prompt_tuning_does():
    plain = apply(tiny_encoder(), data(), METHODS["prompt_tuning"], Context()).tasks["reviews"]
    params = Dept(**{**PROMPT, "tokens": 4, "rank": 0})
    ours = apply(tiny_encoder(), data(), params, Context()).tasks["reviews"]
    assert torch.equal(plain.tensors["prompt_embeddings"], ours.tensors["prompt_embeddings"])
    assert torch.equal(plain.scores, ours.scores)


def test_prompt_and_low_rank_update_have_their_own_rates():
    # Adam's first step moves every number with a gradient by the learning rate.
    params = Dept(**{**PROMPT, "rank": 2, "steps": 1, "warm_up": 0, "initial": "text"})
    start = apply(tiny_encoder(), data(), params, Context()).tasks["reviews"].tensors
    low = float(start["lora_embedding_B"].abs().max())
    assert low == pytest.approx(5e-4, rel=1e-3)
    ids = tiny_encoder().tokenizer(params.initial_text, add_special_tokens=False)["input_ids"]
    rows = (ids * 3)[:3]
    initial = tiny_encoder().model.get_input_embeddings().weight[rows]
    high = float((start["prompt_embeddings"] - initial).abs().max())
    assert high == pytest.approx(0.1, rel=1e-3)


def test_rates_rise_and_then_fall_to_zero_in_a_line():
    found = [factor(step, 10, 4) for step in range(11)]
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4:] == pytest.approx([1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0])


def test_the_best_held_out_state_is_kept():
    params = Ept(**{**PROMPT, "steps": 8}, validation=8, evaluations=4)
    context = Context()
    made = apply(tiny_encoder(), data(), params, context).tasks["reviews"]
    measured = [r["validation_accuracy"] for r in context.history if "validation_accuracy" in r]
    assert len(measured) == 4
    assert made.validation == max(measured)
    means = [r for r in context.history if "mean_validation_accuracy" in r]
    assert [row["step"] for row in means] == [2, 4, 6, 8]


class KilledError(Exception):
    pass


@pytest.mark.parametrize("method", ["ept", "prompt_tuning", "text_lora"])
@pytest.mark.parametrize("dies", [("first", 4), ("second", 3)])
def test_a_killed_run_resumes_to_the_same_bits(method, dies, tmp_path, monkeypatch):
    params = METHODS[method]

    def run(directory):
        rows = []
        context = Context(checkpoint=Checkpoint(directory, rows), history=rows)
        return apply(tiny_encoder(), data("first", "second"), params, context), rows

    whole, history = run(None)
    record = Context.record

    def dying(self, **row):
        if (row["task"], row["step"]) == dies:
            raise KilledError
        record(self, **row)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "every", lambda self, seconds: self.directory is not None)
        patched.setattr(Context, "record", dying)
        with pytest.raises(KilledError):
            run(tmp_path)
    made = []
    train = apply_module.train
    monkeypatch.setattr(
        apply_module, "train", lambda *given: made.append(given[2].name) or train(*given)
    )
    resumed, rows = run(tmp_path)
    assert made == ["first", "second"][("first", "second").index(dies[0]) :]
    assert rows == history
    for name, adapter in whole.tasks.items():
        assert torch.equal(adapter.scores, resumed.tasks[name].scores)
        for key, tensor in adapter.tensors.items():
            assert torch.equal(tensor, resumed.tasks[name].tensors[key])


@pytest.mark.parametrize("method", ["prompt_tuning", "text_lora"])
def test_peft_loads_what_was_saved(method, tmp_path):
    base = tiny_encoder()
    made = apply(base, data(), METHODS[method], Context())
    made.save(tmp_path)
    config = json.loads((tmp_path / "reviews" / "adapter_config.json").read_text())
    assert config["peft_type"] == {"prompt_tuning": "PROMPT_TUNING", "text_lora": "LORA"}[method]
    loaded = PeftModel.from_pretrained(tiny_encoder().model, tmp_path / "reviews").eval()
    classifier = made.classifier(base)
    ids = torch.tensor([[2, 12, 8, 14, 4, 3]])
    mask = torch.ones_like(ids)
    with torch.no_grad():
        theirs = loaded(input_ids=ids, attention_mask=mask).last_hidden_state
        ours = classifier.module.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours, theirs)


def test_a_classifier_is_folded_and_says_what_was_trained(capsys):
    base = tiny_encoder()
    made = apply(base, data(), METHODS["ept"], Context())
    classifier = made.classifier(base)
    assert not any(p.requires_grad for p in classifier.module.parameters())
    assert list(classifier.module.backbone.prompt.parameters()) == []
    assert set(classifier.predict(["the film is good"])) <= {"negative", "positive"}
    classifier.print_trainable_parameters()
    trained = int(made.metrics["parameters"].value)
    assert capsys.readouterr().out.startswith(f"trainable params: {trained:,d} || all params: ")


def test_pairs_are_read_together():
    with_pairs = apply(tiny_encoder(), data(pairs=True), METHODS["text_probe"], Context())
    without = apply(tiny_encoder(), data(), METHODS["text_probe"], Context())
    assert not torch.equal(with_pairs.tasks["reviews"].scores, without.tasks["reviews"].scores)


def test_bfloat16_keeps_what_is_trained_in_float32():
    params = Ept(**PROMPT, compute_dtype="bfloat16")
    base = tiny_encoder()
    made = apply(base, data(), params, Context())
    assert {t.dtype for t in made.tasks["reviews"].tensors.values()} == {torch.float32}
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    scores = made.classifier(base).scores(data()["test"][0].documents)
    assert torch.equal(scores, made.tasks["reviews"].scores)


def test_weights_that_were_not_kept_are_not_made_up(tmp_path):
    params = TextFineTune(**COMMON, keep=False)
    made = apply(tiny_encoder(), data(), params, Context())
    made.save(tmp_path)
    assert not (tmp_path / "reviews" / "adapter_model.safetensors").exists()
    with pytest.raises(RetrofitError, match="were not kept"):
        adapters.load(tmp_path).classifier(tiny_encoder())

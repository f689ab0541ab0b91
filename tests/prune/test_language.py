"""A byte-level Llama, dense and Sparse Wide: budget, masks, artifact and resuming."""

import pytest
import torch
from pydantic import ValidationError

from methods.data.kinds import Images, Text
from methods.measure.params import Perplexity
from methods.measure.perplexity import measure
from methods.models.language import load
from methods.prune.language import apply, byte_tokenizer
from methods.prune.params import SparseIFTLanguage, StepTime
from methods.prune.step_time import measure as measure_time
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.fit.killed import resumed

TEXT = Text("t.train", ["abcdefgh " * 300, "Ünïcödé 漢字 " * 60], ["one", "two"])
DATA = {"train": [TEXT]}


def settings(**changes):
    values = {"width": 16, "depth": 2, "heads": 2, "ratio": 2.0, "length": 16, "updates": 60}
    values |= {"batch": 8, "learning_rate": 0.01, "sparsity": 0.5, "every": 5}
    return SparseIFTLanguage(**(values | changes))


@pytest.mark.parametrize(
    "changes", [{"family": "dense", "sparsity": 0.0}, {"update": "rigl"}, {"update": "gradual"}]
)
def test_it_learns_at_equal_flops_and_loads_in_transformers(changes, tmp_path):
    context = Context()
    model = apply(None, DATA, settings(**changes), context)
    found = {name: metric.value for name, metric in model.metrics.items()}
    assert found["flops/ratio"] == pytest.approx(1, abs=1e-3)
    losses = [row["loss"] for row in context.history]
    assert losses[-1] < 0.5 * losses[0]
    if "update" in changes:
        rows = {row["name"]: row for row in model.notes["sparse_ift"]["layers"]}
        assert rows["lm_head"]["exempt"] == "last layer"
        masked = [name for name, row in rows.items() if not row["exempt"]]
        assert len(masked) == 14
        for name in masked:
            weight = model.model.get_submodule(name).weight
            assert int(torch.count_nonzero(weight)) == rows[name]["nonzeros"] < weight.numel()
    model.save(tmp_path)
    again = load(tmp_path)
    tokens = torch.tensor([again.tokenizer("abc 漢")["input_ids"]])
    assert torch.equal(again.model(tokens).logits, model.model(tokens).logits)
    settings_ = Perplexity(window=16, dtype="float32")
    assert measure(again, {"eval": [TEXT]}, settings_, Context())["nll/t.train"].value < 3


def test_text_becomes_its_bytes_and_returns():
    tokenizer = byte_tokenizer(16)
    for text in TEXT.documents:
        ids = tokenizer(text, verbose=False)["input_ids"]
        assert len(ids) == len(text.encode("utf-8"))
        assert max(ids) < 256
        assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id == 256


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, monkeypatch):
    params = settings(updates=24, every=4)
    expected = apply(None, DATA, params, Context())
    found, _ = resumed(lambda c: apply(None, DATA, params, c), 15, tmp_path, monkeypatch)
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, found.model.state_dict()[name]), name


def test_wrong_settings_and_data():
    with pytest.raises(ValidationError, match="2 heads need a width that is a multiple of 4"):
        settings(width=18)
    with pytest.raises(ValidationError, match="nearest allowed are"):
        settings(sparsity=0.6)
    images = Images(
        "i.train", torch.zeros(1, 2, 2).byte().numpy(), torch.zeros(1).long().numpy(), ["a"]
    )
    with pytest.raises(RetrofitError, match=r"trains on text, and i\.train has none"):
        apply(None, {"train": [images]}, settings(), Context())
    with pytest.raises(RetrofitError, match="less than one window"):
        apply(None, {"train": [Text("s", ["short"], ["x"])]}, settings(), Context())


def test_the_clock():
    model = apply(None, DATA, settings(updates=1), Context())
    found = measure_time(model, {}, StepTime(batch=2, length=16, repeats=2), Context())
    assert found["step_time"].value > 0

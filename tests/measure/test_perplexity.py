"""Perplexity against a hand computation, and what happens at the edges."""

import math
from types import SimpleNamespace

import pytest
import torch

from methods.measure.params import Perplexity
from methods.measure.perplexity import CHUNK, measure, pick, scorer, text_windows
from methods.models.language import LanguageModel
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.models.tiny import ARCHITECTURES, VOCABULARY, tiny_model


def tokenizer(text, verbose=True):
    """One token for a character; documents stay recognisable."""
    return {"input_ids": [3 + ord(letter) % (VOCABULARY - 3) for letter in text]}


def text(name="tale.test", documents=None):
    documents = documents or ["the cat sat on the mat " * 4, "a dog, " * 9]
    return SimpleNamespace(name=name, documents=documents)


def by_hand(model, ids, window):
    """Token by token, one window at a time, in double precision."""
    model = model.double()
    losses = []
    for start in range(0, len(ids) - window + 1, window):
        part = torch.tensor([ids[start : start + window]])
        chances = model(input_ids=part).logits[0].softmax(-1)
        steps = [-math.log(chances[i, part[0, i + 1]].item()) for i in range(window - 1)]
        losses.append(sum(steps) / len(steps))
    model.float()
    return losses


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_hand_computation(architecture):
    model = tiny_model(architecture)
    params = Perplexity(window=16, dtype="float32", batch=3)
    found = measure(LanguageModel(model, tokenizer), {"eval": [text()]}, params, Context())
    expected = by_hand(model, tokenizer("\n\n".join(text().documents))["input_ids"], 16)
    nll, perplexity = found["nll/tale.test"], found["perplexity/tale.test"]
    assert nll.values == pytest.approx(expected, rel=1e-5)
    assert nll.n == len(expected) == 9
    assert nll.labels[:2] == ["tale.test:0", "tale.test:1"]
    assert perplexity.value == pytest.approx(math.exp(sum(expected) / 9), rel=1e-5)
    assert perplexity.labels == nll.labels
    assert perplexity.values == pytest.approx([math.exp(v) for v in expected], rel=1e-4)
    spread = torch.tensor(expected).std().item() / 3
    assert nll.stderr == pytest.approx(spread, rel=1e-4)
    assert perplexity.stderr == pytest.approx(spread * perplexity.value, rel=1e-4)


def test_several_texts_and_batches_do_not_mix():
    model = LanguageModel(tiny_model("llama"), tokenizer)
    texts = [text(), text("other.test", ["zebras " * 12])]
    joint = measure(
        model, {"eval": texts}, Perplexity(window=16, dtype="float32", batch=4), Context()
    )
    for one in texts:
        alone = measure(
            model, {"eval": [one]}, Perplexity(window=16, dtype="float32", batch=1), Context()
        )
        name = f"nll/{one.name}"
        assert alone[name].values == pytest.approx(joint[name].values, rel=1e-6)


def test_bfloat16_is_close_and_leaves_the_weights_alone():
    model = tiny_model("llama")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    exact, rough = (
        measure(
            LanguageModel(model, tokenizer),
            {"eval": [text()]},
            Perplexity(window=16, dtype=dtype),
            Context(),
        )["nll/tale.test"].value
        for dtype in ("float32", "bfloat16")
    )
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.01)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_chunks_of_positions_give_the_same(monkeypatch):
    model, tokens = tiny_model("llama"), torch.arange(3, 35).view(2, 16)
    whole = scorer(model, tokens[:1])(tokens)
    assert CHUNK > 32 * VOCABULARY
    monkeypatch.setattr("methods.measure.perplexity.CHUNK", 7 * VOCABULARY)
    torch.testing.assert_close(scorer(model, tokens[:1])(tokens), whole, atol=1e-6, rtol=0)


def test_a_model_that_rescales_its_logits_is_still_measured_rightly():
    model = tiny_model("gemma3", final_logit_softcapping=2.0)
    tokens = torch.arange(3, 35).view(2, 16)

    def reference(network):
        logits = network(input_ids=tokens).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), tokens[:, 1:], reduction="none"
        )
        return loss.mean(1).double()

    torch.testing.assert_close(scorer(model, tokens[:1])(tokens), reference(model))
    strange = tiny_model("llama")
    forward = strange.forward

    def scaled(*args, **kwargs):
        out = forward(*args, **kwargs)
        out.logits = out.logits / 3
        return out

    strange.forward = scaled
    torch.testing.assert_close(scorer(strange, tokens[:1])(tokens), reference(strange))


def test_windows_are_spread_or_first():
    assert pick(10, None) == list(range(10))
    assert pick(10, 5) == [1, 3, 5, 7, 9]
    assert pick(100, 4) == [12, 37, 62, 87]
    assert pick(10, 3, "first") == [0, 1, 2]
    assert len(set(pick(17, 16))) == 16


def test_windows_do_not_overlap_and_the_tail_is_dropped():
    story = text(documents=["abcdefghij", "klm"])  # 10 + 2 + 3 characters
    chosen, windows = text_windows(story, tokenizer, 4, None)
    assert chosen == [0, 1, 2]
    assert windows.flatten().tolist() == tokenizer("abcdefghij\n\n")["input_ids"]


def test_refusals_name_the_set():
    model = LanguageModel(tiny_model("llama"), tokenizer)

    def run(story, **options):
        return measure(model, {"eval": [story]}, Perplexity(**options), Context())

    with pytest.raises(RetrofitError, match=r"tale.test has 5 tokens, less than one window of 16"):
        run(text(documents=["short"]), window=16)
    with pytest.raises(RetrofitError, match=r"tale.test has 9 windows of 16 tokens, and 10 are"):
        run(text(), window=16, windows=10)
    with pytest.raises(RetrofitError, match=r"needs text, and mnist.test is SimpleNamespace"):
        run(SimpleNamespace(name="mnist.test"))
    with pytest.raises(RetrofitError, match="needs a tokenizer"):
        measure(LanguageModel(model.model), {"eval": [text()]}, Perplexity(), Context())


def test_a_model_that_computes_nan_is_refused():
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = float("nan")
    with pytest.raises(RetrofitError, match=r"likelihood of tale.test is not finite in window 0"):
        measure(
            LanguageModel(model, tokenizer), {"eval": [text()]}, Perplexity(window=16), Context()
        )

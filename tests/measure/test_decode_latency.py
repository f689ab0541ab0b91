"""Decoding is timed on the real thing; its cache is counted exactly."""

import pytest
import torch
from pydantic import ValidationError

from methods.measure.decode_latency import decode, measure
from methods.measure.params import DecodeLatency
from methods.models.language import LanguageModel
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.models.tiny import tiny_model, tiny_tokens


def test_metrics_and_cache_bytes():
    model = tiny_model("llama")
    params = DecodeLatency(contexts=[8, 40], tokens=4)
    found = measure(LanguageModel(model), {}, params, Context())
    assert found["decode_latency/40"].n == 3
    assert found["decode_latency/8"].value > 0
    # Keys and values of 3 layers: 2 heads x 8 channels x 40 positions in float32.
    assert found["cache/40"].value == 3 * 2 * 2 * 8 * 40 * 4
    assert not DecodeLatency.comparable


def test_decoding_reads_the_cache_it_is_given():
    """A pass over one token after the context gives the logits of the uncached forward."""
    model, tokens = tiny_model("llama"), tiny_tokens(1, 12)
    seen = []
    handle = model.register_forward_hook(lambda m, a, out: seen.append(out.logits[:, -1]))
    with torch.inference_mode():
        decode(model, tokens, 8, 4)
        whole = model(input_ids=tokens).logits
    handle.remove()
    torch.testing.assert_close(seen[4], whole[:, 11], atol=1e-5, rtol=1e-4)


def test_longer_than_the_model_allows_is_refused():
    with pytest.raises(RetrofitError, match="136 tokens exceed the model's 128 positions"):
        measure(LanguageModel(tiny_model("llama")), {}, DecodeLatency(contexts=[8, 120]), Context())
    with pytest.raises(ValidationError, match="different positive lengths"):
        DecodeLatency(contexts=[8, 8])

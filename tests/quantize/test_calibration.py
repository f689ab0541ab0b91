"""Which windows of the text a step sees."""

from types import SimpleNamespace

import pytest
import torch

from methods.quantize.calibration import calibration_windows, cut
from methods.run.context import Context
from methods.study.errors import RetrofitError
from tests.quantize.stage import Characters, text

TOKENIZER = Characters()


def windows(take, seed=0, of=12, length=24):
    data = {"calibration": [text(windows=of, length=length, take=take)]}
    return calibration_windows(data, TOKENIZER, Context(seed=seed))


def test_windows_are_cuts_of_the_joined_text():
    story = SimpleNamespace(name="story", documents=["abcdef", "gh", "ijk"])
    joined = TOKENIZER("abcdef\n\ngh\n\nijk")["input_ids"]
    assert cut(story, TOKENIZER, 4).tolist() == [joined[i : i + 4] for i in (0, 4, 8)]


def test_the_seed_chooses_without_repetition():
    first, again, other = windows(5), windows(5), windows(5, seed=1)
    assert first.shape == (5, 24)
    assert first.dtype == torch.int64
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    everything = cut(text(windows=12), TOKENIZER, 24).tolist()
    assert all(row in everything for row in first.tolist())
    assert len({tuple(row) for row in windows(12).tolist()}) == 12


def test_less_is_a_part_of_more():
    assert torch.equal(windows(3), windows(9)[:3])


def test_too_little_is_refused():
    data = {"calibration": [text(windows=12)]}
    data["calibration"][0].options = {"tokens": 600, "length": 300}
    with pytest.raises(RetrofitError, match=r"letters\.train has 291 tokens, less than one .* 300"):
        calibration_windows(data, TOKENIZER, Context())
    with pytest.raises(RetrofitError, match="has 12 windows of 24 tokens, and calibration asks"):
        windows(20)
    data["calibration"][0].options = {"tokens": 20, "length": 24}
    with pytest.raises(RetrofitError, match="20 tokens are less than one window of 24"):
        calibration_windows(data, TOKENIZER, Context())


def test_what_is_missing_is_named():
    with pytest.raises(RetrofitError, match="calibration needs a text"):
        calibration_windows({}, TOKENIZER, Context())
    with pytest.raises(RetrofitError, match="needs a tokenizer"):
        calibration_windows({"calibration": [text()]}, None, Context())
    table = SimpleNamespace(name="soup.train", x=[])
    with pytest.raises(RetrofitError, match=r"needs text, and soup\.train"):
        calibration_windows({"calibration": [table]}, TOKENIZER, Context())

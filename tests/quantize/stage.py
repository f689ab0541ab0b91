"""A tiny language model with a tokenizer and a text, for whole steps in fractions of a second."""

import random
from types import SimpleNamespace

from methods.models.language import LanguageModel
from tests.models.tiny import tiny_model

LENGTH = 24


class Characters:
    """A tokenizer of one token per character."""

    def __call__(self, text, verbose=True):
        return {"input_ids": [3 + ord(c) % 90 for c in text]}


def tiny_base(architecture="llama", **changes):
    return LanguageModel(tiny_model(architecture, **changes), Characters(), notes={"base": "tiny"})


def text(windows=8, length=LENGTH, take=None):
    """A text of `windows` windows, of which a step takes `take`."""
    rng = random.Random(5)
    document = "".join(chr(rng.randint(32, 120)) for _ in range(windows * length + 3))
    options = {"tokens": (take or windows) * length, "length": length}
    return SimpleNamespace(name="letters.train", documents=[document], options=options)


def calibration(**options):
    return {"calibration": [text(**options)]}

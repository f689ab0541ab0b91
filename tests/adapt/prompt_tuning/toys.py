"""Small tasks of a few words, and bases that read them."""

import numpy as np

from methods.data.kinds import LabelledText
from methods.models.language import LanguageModel
from tests.models.tiny import tiny_model
from tests.models.tiny_encoder import tokenizer

SUBJECTS = ["film", "book", "plot", "actor"]
ADJECTIVES = {"positive": ["good", "fine"], "negative": ["bad", "poor"]}
CLASSES = ["negative", "positive"]


def task(name="reviews", split="train", repeat=4, pairs=False):
    """Sentences such as "the film is very good" with what they say."""
    documents, y = [], []
    for number in range(repeat):
        for label, adjectives in ADJECTIVES.items():
            for subject in SUBJECTS:
                adjective = adjectives[number % 2]
                very = " very" * (number % 3)
                documents.append(f"the {subject} is{very} {adjective}")
                y.append(CLASSES.index(label))
    second = ["a film" for _ in documents] if pairs else None
    return LabelledText(f"{name}.{split}", documents, np.array(y), CLASSES, second)


def data(*names, **changes):
    names = names or ("reviews",)
    return {
        "train": [task(name, **changes) for name in names],
        "test": [task(name, "test", 3, **changes) for name in reversed(names)],
    }


def causal():
    return LanguageModel(tiny_model("llama").requires_grad_(False), tokenizer())

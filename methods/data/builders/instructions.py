"""Instructions with answers, in the template that Alpaca made common."""

from __future__ import annotations

import json
from typing import ClassVar, Literal

from pydantic import Field

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import Text

INTRODUCTION = {
    True: "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.",
    False: "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.",
}
"""The published template's first sentence, with and without an input."""


class Options(BuilderOptions):
    """Which file, and how many of its first samples are held out (200 in the published code)."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset(),)

    name: Literal["instructions"]
    file: str
    held: int = Field(200, ge=1)

    @property
    def splits(self) -> list[str]:
        """train and validation."""
        return ["train", "validation"]


def build(files: dict[str, bytes], options: Options) -> dict[str, Text]:
    """One document a sample; what follows "### Response:" is its answer.

    Raises ValueError for a file that is no list of samples, or has none to train on.
    """
    samples = json.loads(files[options.file])
    if not isinstance(samples, list) or len(samples) <= options.held:
        raise ValueError(f"{options.file} is no list of more than {options.held} samples")
    documents = []
    for number, sample in enumerate(samples):
        missing = {"instruction", "output"} - set(sample)
        if missing:
            raise ValueError(f"sample {number} of {options.file} has no '{min(missing)}'")
        documents.append(rendered(sample))
    titles = [str(number) for number in range(len(documents))]
    cut = options.held
    return {
        "train": Text("train", documents[cut:], titles[cut:]),
        "validation": Text("validation", documents[:cut], titles[:cut]),
    }


def rendered(sample: dict[str, str]) -> str:
    """The template around one sample."""
    context = sample.get("input", "")
    parts = [INTRODUCTION[bool(context)], f"### Instruction:\n{sample['instruction']}"]
    if context:
        parts.append(f"### Input:\n{context}")
    parts.append(f"### Response:\n{sample['output']}")
    return "\n\n".join(parts)

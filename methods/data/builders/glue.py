"""Tasks of GLUE and SuperGLUE from the files that the benchmarks publish, as T5 reads them: fields by name.

*Fidelity.* Splits are DePT's: of a task with few examples the official validation set is shuffled (torch's generator,
seed 42) and halved into validation and test; of a large one it is the test set whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from methods.data.builders.options import BuilderOptions
from methods.data.kinds import LabelledText
from methods.data.labelled import Row, collected

SEED = 42


@dataclass(frozen=True)
class Form:
    """fields: {name that T5 sees: column or key}. classes: {label in the file: class}. halved: few examples."""

    fields: dict[str, str]
    label: str
    classes: dict[str, str]
    halved: bool = True
    header: tuple[str, ...] = ()
    """Names of the columns where the file has none."""


YES_NO = {"1": "yes", "0": "no", "True": "yes", "False": "no"}
TWO = {"sentence1": "sentence1", "sentence2": "sentence2"}
NLI = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
FORMS = {
    "cola": Form(
        {"sentence": "sentence"}, "label", YES_NO, header=("source", "label", "mark", "sentence")
    ),
    "sst2": Form({"sentence": "sentence"}, "label", YES_NO, halved=False),
    "mrpc": Form({"sentence1": "#1 String", "sentence2": "#2 String"}, "Quality", YES_NO),
    "qqp": Form(
        {"question1": "question1", "question2": "question2"}, "is_duplicate", YES_NO, halved=False
    ),
    "mnli": Form(
        {"premise": "sentence1", "hypothesis": "sentence2"}, "gold_label", NLI, halved=False
    ),
    "qnli": Form(
        {"question": "question", "sentence": "sentence"},
        "label",
        {"entailment": "yes", "not_entailment": "no"},
        halved=False,
    ),
    "rte": Form(TWO, "label", {"entailment": "yes", "not_entailment": "no"}),
    "boolq": Form({"question": "question", "passage": "passage"}, "label", YES_NO),
    "cb": Form({"premise": "premise", "hypothesis": "hypothesis"}, "label", NLI),
    "wic": Form({**TWO, "word": "word"}, "label", YES_NO),
    "wsc": Form({"text": "marked"}, "label", YES_NO),
    "multirc": Form(
        {"question": "question", "answer": "answer", "paragraph": "paragraph"}, "label", YES_NO
    ),
}


class Options(BuilderOptions):
    """Which task; its files are called `train` and `validation`."""

    needs: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"train", "validation"}),)

    name: Literal["glue"]
    task: Literal[
        *("cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte"),
        *("boolq", "cb", "wic", "wsc", "multirc"),
    ]

    @property
    def splits(self) -> list[str]:
        """train and test, and validation where the official one is halved."""
        return ["train", "validation", "test"] if FORMS[self.task].halved else ["train", "test"]


def build(files: dict[str, bytes], options: Options) -> dict[str, LabelledText]:
    """Labelled texts. ValueError: a column that is not there, a label that the task does not have."""
    form = FORMS[options.task]
    train, official = (
        list(_rows(files[part].decode("utf-8"), form, options.task))
        for part in ("train", "validation")
    )
    order = list(dict.fromkeys(form.classes.values()))
    if not form.halved:
        return collected({"train": train, "test": official}, order)
    import torch

    shuffled = torch.randperm(len(official), generator=torch.Generator().manual_seed(SEED)).tolist()
    half = len(official) // 2
    validation, test = ([official[i] for i in part] for part in (shuffled[:half], shuffled[half:]))
    return collected({"train": train, "validation": validation, "test": test}, order)


def _rows(text: str, form: Form, task: str) -> Iterator[Row]:
    for number, record in enumerate(_records(text, form, task), 1):
        missing = [key for key in (*form.fields.values(), form.label) if key not in record]
        if missing:
            raise ValueError(f"example {number} of {task} has no '{missing[0]}'")
        label = str(record[form.label])
        if label == "-" and task == "mnli":
            continue  # the annotators did not agree
        if label not in form.classes:
            raise ValueError(f"example {number} of {task} has the label '{label}'")
        fields = (f"{name}: {record[key]}" for name, key in form.fields.items())
        yield " ".join(fields), form.classes[label]


def _records(text: str, form: Form, task: str) -> Iterator[dict[str, Any]]:
    if not text.lstrip().startswith("{"):
        lines = [line.rstrip("\r") for line in text.lstrip("\ufeff").split("\n") if line.strip()]
        header = list(form.header) or lines.pop(0).split("\t")
        for line in lines:  # quotation marks are text in these files
            yield dict(zip(header, line.split("\t"), strict=False))
        return
    for line in (line for line in text.split("\n") if line.strip()):
        record = json.loads(line)
        match task:
            case "wsc":
                yield {**record, "marked": _marked(record)}
            case "multirc":
                passage = record["passage"]
                for question in passage["questions"]:
                    for answer in question["answers"]:
                        yield {
                            "paragraph": passage["text"],
                            "question": question["question"],
                            "answer": answer["text"],
                            "label": answer["label"],
                        }
            case _:
                yield record


def _marked(record: dict[str, Any]) -> str:
    """The text of a Winograd schema with `* noun *` and `# pronoun #`."""
    words, target = record["text"].split(" "), record["target"]
    for part, sign in (("span1", "*"), ("span2", "#")):
        start, length = target[f"{part}_index"], len(target[f"{part}_text"].split(" "))
        words[start] = f"{sign} {words[start]}"
        words[start + length - 1] += f" {sign}"
    return " ".join(words)

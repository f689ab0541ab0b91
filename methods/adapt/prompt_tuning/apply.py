"""Prompt tuning and its controls on many labelled tasks at once (EPT 2405.11464, DePT 2309.05173).

*Fidelity.* The decomposition is DePT's, as its code computes it: the update is scaled by α/√r, which the paper's
equation does not have; a prompt stands before the encoder only; two learning rates, linear decay after a warm-up, no
weight decay. Prompt fusion and multi-space projection are a **reconstruction**: EPT's equations and code could not be
had, only its abstract, so no figure made here reproduces EPT. With both switched off EPT is DePT, and with B = 0 it
is prompt tuning, exactly.
Chosen: on an encoder a linear classifier on the mean of the text's tokens is trained along; a language model answers
with one word of a verbalizer, and only these words are scored (DePT generates freely and counts invalid answers as
wrong). No dropout acts while a frozen model is trained (DePT leaves T5's on). Texts are padded to the longest of a
batch and padding is masked in training and in testing alike (DePT's evaluation passes no mask, so that its decoder
reads padding). A batch shorter than the update uses its first rows (DePT's code stops with an error).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from methods.adapt.prompt_tuning.adapters import (
    TaskAdapter,
    TaskAdapters,
    initial_ids,
    kind_of,
    load_adapter,
    save_adapter,
)
from methods.adapt.prompt_tuning.attachment import attach, release, state_of
from methods.adapt.prompt_tuning.readout import readout_for
from methods.adapt.prompt_tuning.tasks import name_of, paired, prepare
from methods.adapt.prompt_tuning.training import TextClassifier, computing, train
from methods.run.checkpoint import Checkpoint
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.adapt.prompt_tuning.params import TextTuning
    from methods.data.kinds import LabelledText
    from methods.models.encoder import EncoderModel
    from methods.models.language import LanguageModel
    from methods.run.context import Context

DONE, HISTORY = "done", "history.json"


def apply(
    base: EncoderModel | LanguageModel,
    data: dict[str, list[Any]],
    params: TextTuning,
    context: Context,
) -> TaskAdapters:
    """An adapter for each task of the data role `train`, measured on the role `test`.

    Metrics: `accuracy` (mean over tasks; its single values are the tasks'), `accuracy/<task>`, `parameters` (trained,
    without the classifier) and `parameters/<part>`, `seconds` (of training, mean over tasks).
    Raises RetrofitError: no base, a quantised or tokenizer-less one, a prompt longer than its context, data that are
    no labelled tasks, a task of one class, a verbalizer that does not fit, a layer to adapt that is not there.
    """
    check_model(base, params)
    splits = paired(data)
    context.log.info("%s: %d tasks", context.label, len(splits))
    found = {}
    for train_split, test_split in splits:
        found[name_of(train_split)] = once(base, train_split, test_split, params, context)
    context.history += mean_curves(context.history)
    made = TaskAdapters(params, kind_of(base), base.notes.get("base", {}), found)
    made.metrics = metrics(found)
    return made


def check_model(base: EncoderModel | LanguageModel, params: TextTuning) -> None:
    """Refuse a base that cannot be tuned so (see `apply`)."""
    if base is None:
        raise RetrofitError(f"{params.method} needs a base model: give the study a `base:`")
    if getattr(base, "quantized", None):
        raise RetrofitError(f"{params.method}: the model is quantised; start from the dense one")
    if base.tokenizer is None:
        raise RetrofitError(f"{params.method}: the model has no tokenizer to read texts with")
    params.check_base(base.model.config.to_dict())


def once(
    base: EncoderModel | LanguageModel,
    train_split: LabelledText,
    test_split: LabelledText,
    params: TextTuning,
    context: Context,
) -> TaskAdapter:
    """The task's adapter, taken from the run's checkpoint where a run that was killed had finished it."""
    name = name_of(train_split)
    root = context.checkpoint.directory
    part = None if root is None else root / name
    if part is not None and (part / DONE).is_dir():
        context.history += json.loads((part / DONE / HISTORY).read_text("utf-8"))
        return load_adapter(part / DONE)
    rows: list[dict[str, Any]] = []
    alone = replace(context, checkpoint=Checkpoint(part, rows), history=rows)
    adapter = tune(base, train_split, test_split, params, alone)
    context.history += rows
    if part is not None:
        aside = part / f".{DONE}.{os.getpid()}"
        shutil.rmtree(aside, ignore_errors=True)
        save_adapter(adapter, aside, {})
        (aside / HISTORY).write_text(json.dumps(rows), "utf-8")
        os.replace(aside, part / DONE)
    return adapter


def tune(
    base: EncoderModel | LanguageModel,
    train_split: LabelledText,
    test_split: LabelledText,
    params: TextTuning,
    context: Context,
) -> TaskAdapter:
    """One task: attach, train, score the test texts, detach. The base's weights stay as they are, to the bit."""
    kind = kind_of(base)
    task = prepare(train_split, test_split, base.tokenizer, kind, params)
    base.model.to(context.device)
    ids = initial_ids(base.tokenizer, params)
    attached = attach(base.model, kind, params, ids, context.generator(f"adapter {task.name}"))
    generator = context.generator(f"classifier {task.name}")
    readout = readout_for(kind, attached.model, task.classes, task.words, generator)
    classifier = TextClassifier(attached, readout).to(context.device)
    with computing(classifier, attached, params):
        tuned = train(classifier, attached, task, params, context)
        scores = classifier.scores(task.test, context.device)
    config, tensors = state_of(attached, params)
    release(attached)
    return TaskAdapter(
        classes=task.classes,
        config=config,
        tensors={name: tensor.cpu() for name, tensor in tensors.items()},
        head={name: p.detach().cpu() for name, p in readout.named_parameters()},
        scores=scores,
        y=task.test.y,
        words=None if task.words is None else task.words.tolist(),
        ask=task.ask,
        counts=attached.counts,
        seconds=tuned.seconds,
        validation=tuned.validation,
    )


def metrics(tasks: dict[str, TaskAdapter]) -> dict[str, Metric]:
    """See `apply`."""
    names = list(tasks)
    accuracies = [adapter.accuracy for adapter in tasks.values()]
    seconds = [adapter.seconds for adapter in tasks.values()]
    found = {
        "accuracy": _over(names, accuracies, "", higher_is_better=True),
        "seconds": _over(names, seconds, "s", higher_is_better=False),
    }
    for name, adapter in tasks.items():
        share, n = adapter.accuracy, len(adapter.y)
        error = (share * (1 - share) / n) ** 0.5
        found[f"accuracy/{name}"] = Metric(share, stderr=error, n=n, higher_is_better=True)
    counts = next(iter(tasks.values())).counts
    found["parameters"] = Metric(sum(counts.values()), higher_is_better=False)
    for part, count in counts.items():
        if part != "all":
            found[f"parameters/{part}"] = Metric(count, higher_is_better=False)
    return found


def _over(names: list[str], values: list[float], unit: str, higher_is_better: bool) -> Metric:
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None
    return Metric(
        float(np.mean(values)),
        stderr=error,
        n=len(values),
        unit=unit,
        higher_is_better=higher_is_better,
        values=values,
        labels=names,
    )


def mean_curves(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows (step, mean_loss) and (step, mean_validation_accuracy): means over the tasks at equal updates."""
    rows = []
    for column in ("loss", "validation_accuracy"):
        at: dict[int, list[float]] = {}
        for row in history:
            if column in row:
                at.setdefault(row["step"], []).append(row[column])
        rows += [{"step": s, f"mean_{column}": float(np.mean(v))} for s, v in sorted(at.items())]
    return rows

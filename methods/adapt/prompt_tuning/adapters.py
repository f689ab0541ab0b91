"""What tuning leaves behind: an adapter for each task, in peft's files, with its scores on the test texts.

`<task>/adapter_config.json` and `<task>/adapter_model.safetensors` are peft's own for prompt tuning and LoRA
(`PeftModel.from_pretrained(model, <task>)`), and have the same form for DePT and EPT, which peft does not know.
The base model is not in them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from methods.adapt.prompt_tuning.attachment import Attached, attach, release, restore
from methods.adapt.prompt_tuning.params import TextTuning
from methods.adapt.prompt_tuning.prompts import Prompted
from methods.adapt.prompt_tuning.readout import readout_for
from methods.adapt.prompt_tuning.tasks import Labelled, tokens_of
from methods.adapt.prompt_tuning.training import TextClassifier, computing
from methods.study.errors import RetrofitError, choices
from methods.study.registry import find

if TYPE_CHECKING:
    from methods.models.encoder import EncoderModel
    from methods.models.language import LanguageModel
    from methods.run.metrics import Metric

INDEX = "adapters.json"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
HEAD, SCORES, TASK = "head.safetensors", "scores.safetensors", "task.json"


@dataclass
class TaskAdapter:
    """One task's adapter. `scores` float32 [n, C] and `y` int64 [n] are those of the test texts."""

    classes: list[str]
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    head: dict[str, Tensor]
    scores: Tensor
    y: Tensor
    words: list[int] | None
    ask: str
    counts: dict[str, int]
    seconds: float
    validation: float | None

    @property
    def accuracy(self) -> float:
        """Share of test texts whose class has the highest score."""
        return float((self.scores.argmax(1) == self.y).double().mean())


@dataclass
class TaskAdapters:
    """Adapters by task, in the order of the study. kind: of the base they belong to."""

    loader: ClassVar[str] = "methods.adapt.prompt_tuning.adapters:load"

    params: TextTuning
    kind: str
    base: dict[str, Any]
    tasks: dict[str, TaskAdapter]
    metrics: dict[str, Metric] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write a folder for each task, and an index."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, adapter in self.tasks.items():
            save_adapter(adapter, directory / name, self.base)
        index = {
            "params": self.params.model_dump(mode="json"),
            "kind": self.kind,
            "base": self.base,
            "tasks": list(self.tasks),
        }
        _write_json(directory / INDEX, index)

    def classifier(self, base: EncoderModel | LanguageModel, task: str | None = None) -> Classifier:
        """The tuned classifier of a task (None: the only one), working on `base`.

        Raises RetrofitError for an unknown task and a base of another kind.
        """
        name = task or next(iter(self.tasks))
        if name not in self.tasks or (task is None and len(self.tasks) > 1):
            raise RetrofitError(f"there is no adapter for '{task}'; {choices(name, self.tasks)}")
        kind = kind_of(base)
        if kind != self.kind:
            raise RetrofitError(f"the adapters are for a {self.kind} model, and this one is {kind}")
        return Classifier(base, self.params, self.tasks[name])


class Classifier:
    """A base model with one task's adapter. Folded: what does not depend on the text is computed once."""

    def __init__(
        self, base: EncoderModel | LanguageModel, params: TextTuning, adapter: TaskAdapter
    ):
        self.params, self.classes, self._adapter = params, adapter.classes, adapter
        self._tokenizer, self._kind = base.tokenizer, kind_of(base)
        generator = torch.Generator()
        ids = initial_ids(base.tokenizer, params)
        self.attached: Attached = attach(base.model, self._kind, params, ids, generator)
        restore(self.attached, params, adapter.tensors)
        words = None if adapter.words is None else torch.tensor(adapter.words)
        readout = readout_for(
            self._kind, self.attached.model, adapter.classes, words, torch.Generator()
        )
        readout.load_state_dict(adapter.head, strict=False)
        self.module = TextClassifier(self.attached, readout).eval().requires_grad_(False)
        self._size = sum(p.numel() for p in self.module.parameters())
        if isinstance(self.attached.backbone, Prompted):
            self.attached.backbone.prompt = self.attached.backbone.prompt.fold()

    def scores(self, documents: Sequence[str], pairs: Sequence[str] | None = None) -> Tensor:
        """float32 [n, C], a column for each of `classes`."""
        tokens = tokens_of(
            documents, pairs, self._tokenizer, self._kind, self.params.length, self._adapter.ask
        )
        texts = Labelled(tokens, torch.zeros(len(tokens), dtype=torch.int64))
        with computing(self.module, self.attached, self.params):
            return self.module.scores(texts)

    def predict(self, documents: Sequence[str], pairs: Sequence[str] | None = None) -> list[str]:
        """The class of each text."""
        return [self.classes[row] for row in self.scores(documents, pairs).argmax(1)]

    def print_trainable_parameters(self) -> None:
        """As peft prints them: what was trained (without the classifier), what there is, the share."""
        trained = sum(self._adapter.counts.values())
        print(
            f"trainable params: {trained:,d} || all params: {self._size:,d} || "
            f"trainable%: {100 * trained / self._size:.4f}"
        )

    def close(self) -> None:
        """Take the adapter out of the base model again."""
        release(self.attached)


def kind_of(base: EncoderModel | LanguageModel) -> str:
    """encoder, seq2seq or causal."""
    return getattr(base, "kind", "causal")


def initial_ids(tokenizer: Any, params: TextTuning) -> list[int]:
    """Tokens of the text that a prompt starts from; RetrofitError where it has none."""
    text = getattr(params, "initial_text", None)
    if text is None:
        return []
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise RetrofitError(f"initial_text {text!r} has no token")
    return ids


def save_adapter(adapter: TaskAdapter, directory: Path, base: dict[str, Any]) -> None:
    """One task's folder."""
    directory.mkdir(parents=True, exist_ok=True)
    name = base.get("huggingface") or base.get("name")
    _write_json(directory / CONFIG, {**adapter.config, "base_model_name_or_path": name})
    for file, tensors in (
        (WEIGHTS, adapter.tensors),
        (HEAD, adapter.head),
        (SCORES, {"scores": adapter.scores, "y": adapter.y}),
    ):
        if tensors:
            whole = {key: t.detach().cpu().clone().contiguous() for key, t in tensors.items()}
            save_file(whole, directory / file, metadata={"format": "pt"})
            (directory / file).chmod(0o644)
    facts = ("classes", "words", "ask", "counts", "seconds", "validation")
    _write_json(directory / TASK, {fact: getattr(adapter, fact) for fact in facts})


def load_adapter(directory: Path) -> TaskAdapter:
    """Read what `save_adapter` wrote."""
    directory = Path(directory)
    read = {
        file: load_file(directory / file) if (directory / file).is_file() else {}
        for file in (WEIGHTS, HEAD, SCORES)
    }
    facts = json.loads((directory / TASK).read_text("utf-8"))
    config = json.loads((directory / CONFIG).read_text("utf-8"))
    return TaskAdapter(
        config=config, tensors=read[WEIGHTS], head=read[HEAD], **read[SCORES], **facts
    )


def load(directory: Path) -> TaskAdapters:
    """Read what `TaskAdapters.save` wrote."""
    directory = Path(directory)
    index = json.loads((directory / INDEX).read_text("utf-8"))
    entry = find("method", index["params"]["method"])
    tasks = {name: load_adapter(directory / name) for name in index["tasks"]}
    return TaskAdapters(
        entry.params.model_validate(index["params"]), index["kind"], index["base"], tasks
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")

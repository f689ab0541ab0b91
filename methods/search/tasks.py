"""What an architecture is searched for: classifying images, or the next byte of a text.

A task holds its items and says what the loss on some of them is and how good a module is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from methods.fit.batches import as_batch_first, held_out, moments, standardise, subset
from methods.measure.classification import score
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.data.kinds import Images, Text
    from methods.run.context import Context


class Task(Protocol):
    """Items 0 .. n-1."""

    facts: dict[str, Any]
    """What it takes to build a network for the task and to feed it, as JSON."""

    def __len__(self) -> int: ...

    def inputs(self, rows: Tensor) -> Tensor:
        """What the module reads for some items."""
        ...

    def loss(self, module: nn.Module, rows: Tensor) -> Tensor:
        """The mean loss on some items, with gradient."""
        ...

    def score(self, module: nn.Module, rows: Tensor | None = None) -> dict[str, Metric]:
        """`accuracy` and `cross_entropy`, at least, in evaluation mode."""
        ...


@dataclass
class ImageTask:
    """x: uint8 [n, c, h, w]; y: int64 [n]; facts: mean, std, classes, channels."""

    x: Tensor
    y: Tensor
    facts: dict[str, Any]

    @classmethod
    def of(cls, images: Images, device: str, facts: dict[str, Any] | None = None) -> ImageTask:
        """From a data set, as much of it as its options say. facts: of the training set, if not this."""
        limit = (getattr(images, "options", None) or {}).get("limit")
        rows = subset(len(images.y), limit).numpy()
        x, y = images.x[rows], images.y[rows]
        if facts is None:
            mean, std = moments(x)
            channels = 1 if x.ndim == 3 else x.shape[-1]
            facts = {"mean": mean, "std": std, "classes": images.classes, "channels": channels}
        elif facts.get("classes") != images.classes:
            raise RetrofitError(f"{images.name} has other classes than the training images")
        return cls(as_batch_first(x, device), torch.from_numpy(y).to(device), facts)

    def __len__(self) -> int:
        return len(self.y)

    def inputs(self, rows: Tensor) -> Tensor:
        """float32 [n, c, h, w], standardised."""
        return standardise(self.x[rows.to(self.x.device)], self.facts["mean"], self.facts["std"])

    def loss(self, module: nn.Module, rows: Tensor) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(module(self.inputs(rows)), self.y[rows.to(self.y.device)])

    def score(self, module: nn.Module, rows: Tensor | None = None) -> dict[str, Metric]:
        """Accuracy, cross-entropy and calibration error."""
        rows = torch.arange(len(self)) if rows is None else rows
        logits = torch.cat([part.cpu() for part in _logits(module, self, rows, 1000)])
        return score(logits, self.y.cpu()[rows])


@dataclass
class ByteTask:
    """windows: uint8 [n, T + 1]; the last T bytes are predicted. facts: length."""

    windows: Tensor
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, text: Text, length: int, device: str) -> ByteTask:
        """Documents joined by an empty line, in UTF-8, cut into windows that share one byte.

        The option `tokens` bounds the number of bytes.
        """
        limit = (getattr(text, "options", None) or {}).get("tokens")
        raw = np.frombuffer("\n\n".join(text.documents).encode("utf-8"), np.uint8)[:limit]
        count = (len(raw) - 1) // length
        if count < 1:
            raise RetrofitError(f"{text.name} has {len(raw)} bytes: less than a window of {length}")
        windows = np.lib.stride_tricks.sliding_window_view(raw, length + 1)[
            : count * length : length
        ]
        return cls(torch.from_numpy(windows.copy()).to(device), {"length": length})

    def __len__(self) -> int:
        return len(self.windows)

    def inputs(self, rows: Tensor) -> Tensor:
        """int64 [n, T]."""
        return self.windows[rows.to(self.windows.device), :-1].long()

    def loss(self, module: nn.Module, rows: Tensor) -> Tensor:
        """Cross-entropy of the next byte, in nats."""
        targets = self.windows[rows.to(self.windows.device), 1:].long()
        return cross_entropy(module(self.inputs(rows)).flatten(0, 1), targets.flatten())

    def score(self, module: nn.Module, rows: Tensor | None = None) -> dict[str, Metric]:
        """Accuracy and cross-entropy of the next byte; the standard errors are over windows."""
        rows = torch.arange(len(self)) if rows is None else rows
        right, losses = [], []
        for logits, part in zip(_logits(module, self, rows, 256), rows.split(256), strict=True):
            targets = self.windows[part.to(self.windows.device), 1:].long()
            right.append((logits.argmax(-1) == targets).double().mean(1))
            nats = cross_entropy(logits.transpose(1, 2).double(), targets, reduction="none")
            losses.append(nats.mean(1))
        found = {"accuracy": (right, "", True), "cross_entropy": (losses, "nats", False)}
        return {name: _mean(torch.cat(v), unit, up) for name, (v, unit, up) in found.items()}


@dataclass(frozen=True)
class Parts:
    """Items to train on, items held out of all training, and items to test on."""

    task: Task
    rows: Tensor
    validation: Task
    validation_rows: Tensor
    test: Task | None


def parts(
    data: dict[str, list[Any]],
    validation: float,
    length: int | None,
    context: Context,
    facts: dict[str, Any] | None = None,
) -> Parts:
    """The task that the data sets pose. length: bytes in a window, None where images are wanted.

    facts: of the super-network's own training, which standardise images here as there.
    Raises RetrofitError for data of another kind.
    """
    task = _task(data["train"][0], length, context.device, facts)
    rows = torch.arange(len(task))
    if data.get("validation"):
        other = _task(data["validation"][0], length, context.device, task.facts)
        other_rows = torch.arange(len(other))
    else:
        count = max(1, round(validation * len(task)))
        rows, other_rows = held_out(len(task), count, context.seed_for("validation split"))
        other = task
    test = None
    if data.get("test"):
        test = _task(data["test"][0], length, context.device, task.facts)
    return Parts(task, rows, other, other_rows, test)


def _task(content: Any, length: int | None, device: str, facts: dict[str, Any] | None) -> Task:
    name = getattr(content, "name", content)
    if length is not None:
        if not hasattr(content, "documents"):
            raise RetrofitError(f"a language space is searched on text, and {name} has none")
        return ByteTask.of(content, length, device)
    if not hasattr(content, "x") or content.x.ndim not in (3, 4):
        raise RetrofitError(f"this space is searched on images, and {name} has none")
    return ImageTask.of(content, device, facts)


@torch.no_grad()
def _logits(module: nn.Module, task: Task, rows: Tensor, size: int) -> Iterator[Tensor]:
    training = module.training
    module.eval()
    for part in rows.split(size):
        yield module(task.inputs(part)).float()
    module.train(training)


def _mean(values: Tensor, unit: str, higher_is_better: bool) -> Metric:
    n = len(values)
    error = float(values.std() / n**0.5) if n > 1 else None
    return Metric(float(values.mean()), error, n, unit, higher_is_better)

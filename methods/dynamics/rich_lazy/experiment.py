"""One run: all arms and replicates of a setting trained, and how far each network has moved (arXiv 2310.08513).

Fidelity
--------
Published code: the update of the network, weights of given rank at a fixed Frobenius norm from one shared Gaussian
matrix, SGD with momentum on all weights, ten batches of fixed inputs for the representation, the first batch of them
for the kernel, and all measures.  Chosen: structured weights (the paper's recipes are not published as code) and their
null networks; the spectral radius as another thing to hold fixed; the same measures where the loss has first
fallen to `target_loss`, because they move with the length of training.  Replicates are trained in one stack of
matrices.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from methods.data.kinds import Images, Table
from methods.dynamics.rich_lazy import initial, measures, structures
from methods.dynamics.rich_lazy.arms import starts, stream
from methods.dynamics.rich_lazy.ensemble import Course, Ensemble, Matched, Probe, look
from methods.dynamics.rich_lazy.memory import SHAPES, Shape, kernel
from methods.dynamics.rich_lazy.network import Weights
from methods.dynamics.rich_lazy.summary import Row, summarise
from methods.dynamics.rich_lazy.tangent_kernel import kernel_products
from methods.dynamics.rich_lazy.tasks import TASKS, Draw, lines
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.dynamics.rich_lazy.params import RichLazy
    from methods.dynamics.rich_lazy.structures import Connectome
    from methods.models.estimates import Estimates
    from methods.run.context import Context

CHECKPOINT_SECONDS = 60.0
BLOCK = 10
"""Updates whose batches are drawn at once; a block of a replicate has its own random stream."""
KERNEL_BYTES = 256_000_000


def apply(base: None, data: dict, params: RichLazy, context: Context) -> Estimates:
    """Train and measure every network; metrics' values are per replicate, labelled by its number."""
    draw, shape, graph = _sources(data, params)
    budget = params.budget(shape)
    budget.check()
    at_once = params.chunk or budget.replicates_at_once(params.replicates)
    saved = context.checkpoint.load()
    rows: list[Row] = [Row(**row) for row in saved["state"]["rows"]] if saved else []
    first = len(rows) // len(params.arms)
    while first < params.replicates:
        chosen = range(first, min(first + at_once, params.replicates))
        chunk = _Chunk(params, draw, shape, graph, chosen, context, rows)
        rows += chunk.run(saved)
        saved, first = None, chosen.stop
    return summarise(rows, params, context)


def _sources(data: dict, params: RichLazy) -> tuple[Draw, Shape, Connectome | None]:
    given = data.get("train", [])
    images = [part for part in given if isinstance(part, Images)]
    tables = [part for part in given if isinstance(part, Table)]
    strange = [part for part in given if not isinstance(part, Images | Table)]
    if strange or len(images) > 1 or len(tables) > 1:
        raise RetrofitError(
            "rich_lazy: the data role 'train' takes one set of images (task: lines), one connectome, or both; "
            f"found {', '.join(part.name for part in given)}"
        )
    graph = structures.neurons(tables[0]) if tables else None
    if params.task in TASKS:
        return TASKS[params.task], SHAPES[params.task], graph
    if not images:
        raise RetrofitError(
            "task: lines needs images as data role 'train', for example mnist-10k.train"
        )
    return *lines(images[0].x, images[0].y, len(images[0].classes)), graph


class _Chunk:
    """Some replicates, from their start to their rows."""

    def __init__(
        self,
        params: RichLazy,
        draw: Draw,
        shape: Shape,
        graph: Connectome | None,
        chosen: range,
        context: Context,
        done: list[Row],
    ):
        self.params, self.draw, self.shape, self.chosen = params, draw, shape, chosen
        self.context, self.done = context, done
        self.device = torch.device(context.device)
        start = starts(params, graph, chosen, shape, context)
        self.start = Weights(*(w.to(self.device) for w in start.tensors()))
        p = params
        self.ensemble = Ensemble(self.start, p.alpha, p.learning_rate, p.momentum)
        self.matched = Matched.none(self.start, p.target_loss)
        self.course = Course()
        self.names = [f"replicate {r}, {arm}" for r in chosen for arm in p.arms]
        drawn = [
            draw(p.probe_batches * p.batch, stream(context, f"{p.task} probe", r)) for r in chosen
        ]
        self.probe = Probe(*self._stacked(drawn), len(p.arms))

    def run(self, saved: dict[str, Any] | None) -> list[Row]:
        """Train from the start, or from a checkpoint, and measure."""
        p, context = self.params, self.context
        begin = self._restore(saved) if saved and saved["tensors"] else 0
        label = f"replicates {self.chosen.start + 1} to {self.chosen.stop}, updates"
        todo = range(begin, p.iterations)
        for step in context.progress(todo, len(todo), label):
            if step % BLOCK == 0 or step == begin:
                x, labels = self._block(step // BLOCK)
            self.ensemble.step(*self._batch(x, labels, step % BLOCK))
            done = step + 1
            if done % p.evaluate_every == 0 or done == p.iterations:
                seen = look(self.start, self.ensemble.now(), self.probe, p.alpha)
                self.course.add(done, seen, self.names)
                self.matched.update(done, seen.loss, self.ensemble.now())
            if context.checkpoint.every(CHECKPOINT_SECONDS):
                self._save(done)
        rows = self._measure()
        kept = [asdict(row) for row in self.done + rows]
        context.checkpoint.save({}, {"rows": kept})
        return rows

    def _block(self, number: int) -> tuple[Tensor, Tensor]:
        p = self.params
        purpose = f"{p.task} batches {p.batch} block {number}"
        drawn = [self.draw(BLOCK * p.batch, stream(self.context, purpose, r)) for r in self.chosen]
        return self._stacked(drawn)

    def _batch(self, x: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
        size, arms = self.params.batch, len(self.params.arms)
        part = slice(number * size, (number + 1) * size)
        return tuple(t[:, :, part].repeat_interleave(arms, 0) for t in (x, labels))

    def _stacked(self, drawn: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
        return tuple(
            torch.from_numpy(np.stack(parts)).to(self.device) for parts in zip(*drawn, strict=True)
        )

    def _measure(self) -> list[Row]:
        p = self.params
        end, at_target = self.ensemble.now(), self.matched.weights
        final = look(self.start, end, self.probe, p.alpha)
        then = look(self.start, at_target, self.probe, p.alpha)
        aligned = self._kernels([self.start, at_target, end])
        initial_weights = self.start.w_h.double().cpu().numpy()
        shape = {
            "effective_rank": measures.participation_ratio(initial_weights),
            "entropy_rank": measures.entropy_rank(initial_weights),
            "spectral_radius": initial.spectral_radius(initial_weights),
            "frobenius": initial.frobenius(initial_weights),
        }
        rows = []
        for member in range(len(self.names)):
            replicate, arm = divmod(member, len(p.arms))
            # Single precision of the weights: what is the same for all replicates stays so.
            values = {name: round(float(found[member]), 5) for name, found in shape.items()}
            values |= {name: float(t[member]) for name, t in vars(final).items()}
            values["kernel_alignment"] = float(aligned[member, 2])
            reached = int(self.matched.step[member])
            if reached:
                values |= {f"matched_{name}": float(t[member]) for name, t in vars(then).items()}
                values["matched_kernel_alignment"] = float(aligned[member, 1])
                values["matched_step"] = float(reached)
            course = {
                name: [look_[member] for look_ in getattr(self.course, name)]
                for name in ("loss", "weight_change", "representation_alignment")
            }
            course["step"] = self.course.steps
            rows.append(Row(self.chosen[replicate], p.arms[arm], values, course))
        return rows

    def _kernels(self, versions: list[Weights]) -> Tensor:
        """Alignment of each version with the first, float64 [M, versions]."""
        p = self.params
        samples = p.kernel_samples or p.batch
        count = max(1, KERNEL_BYTES // kernel(p.size, samples, self.shape))
        found = []
        for first in range(0, len(self.names), count):
            members = slice(first, min(first + count, len(self.names)))
            x = self.probe.part(members)[0][:, :, :samples]
            parts = [version.part(members) for version in versions]
            with torch.no_grad():
                products = kernel_products(parts, x, p.alpha, self.shape.read)
            found.append(measures.alignment(products)[:, 0])
        return torch.cat(found).cpu()

    def _save(self, step: int) -> None:
        tensors = {f"weights.{i}": w for i, w in enumerate(self.ensemble.now().tensors())}
        tensors |= {f"momenta.{i}": m for i, m in enumerate(self.ensemble.momenta)}
        tensors |= {f"matched.{i}": w for i, w in enumerate(self.matched.weights.tensors())}
        tensors["matched.step"] = self.matched.step
        state = {
            "rows": [asdict(row) for row in self.done],
            "step": step,
            "course": asdict(self.course),
        }
        self.context.checkpoint.save(tensors, state)

    def _restore(self, saved: dict[str, Any]) -> int:
        tensors, state = saved["tensors"], saved["state"]
        with torch.no_grad():
            for i in range(3):
                self.ensemble.weights.tensors()[i].copy_(tensors[f"weights.{i}"])
                self.ensemble.momenta[i].copy_(tensors[f"momenta.{i}"])
                self.matched.weights.tensors()[i].copy_(tensors[f"matched.{i}"])
        self.matched.step.copy_(tensors["matched.step"])
        self.course = Course(**state["course"])
        return state["step"]

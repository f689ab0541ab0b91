"""How much memory an ensemble takes, known before anything is made; no heavy imports, plans ask it too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from methods.study.errors import RetrofitError

FLOAT = 4
COPIES = 5
"""Weights, gradients, momenta, the start, and the copy at the matched loss."""
ACTIVATIONS = 4
"""Arrays of a training step as large as all hidden states: drive, states, and their gradients."""
VERSIONS = 3
"""Kernels compared: at the start, at the matched loss, at the end."""
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """steps of a sequence, channels in and out, and how many of the last steps have a label."""

    steps: int
    inputs: int
    outputs: int
    read: int


SHAPES = {
    name: Shape(8, inputs, 3, 8)
    for name, inputs in (("two_alternative", 3), ("delayed_match", 3), ("context", 7))
}
"""Of the tasks that need no data."""


def training(size: int, batch: int, shape: Shape) -> int:
    """Bytes of one network in training."""
    weights = size * (size + shape.inputs + shape.outputs)
    activations = shape.steps * batch * (size + shape.inputs)
    return FLOAT * (COPIES * weights + ACTIVATIONS * activations)


def probing(size: int, samples: int, shape: Shape) -> int:
    """Bytes while one network's states on the fixed inputs are compared."""
    return FLOAT * 3 * shape.steps * samples * (size + shape.inputs)


def kernel(size: int, samples: int, shape: Shape) -> int:
    """Bytes of one network's tangent kernels: the factors, and the smallest block of each."""
    last = range(shape.steps - 1, 0, -1)
    outputs = sum(min(shape.steps - s, shape.read) for s in last) * shape.outputs
    rows = samples * shape.read * shape.outputs
    block = shape.read * shape.outputs * rows
    return FLOAT * (VERSIONS * (outputs * samples * size + block) + block)


@dataclass(frozen=True)
class Budget:
    """What may be used, and what is asked for."""

    gib: float
    size: int
    arms: int
    """Networks of one replicate."""
    batch: int
    probe: int
    kernel_samples: int
    shape: Shape

    @property
    def bytes(self) -> float:
        """The limit."""
        return self.gib * GIB

    def replicate(self, size: int) -> int:
        """Bytes that one replicate cannot do without."""
        single = max(probing(size, self.probe, self.shape), kernel(size, 1, self.shape))
        return self.arms * training(size, self.batch, self.shape) + single

    def check(self) -> None:
        """Raise RetrofitError, with the size that would fit, where not even one replicate does."""
        if self.replicate(self.size) > self.bytes:
            raise RetrofitError(
                f"size {self.size}: one replicate of {self.arms} networks takes "
                f"{self.replicate(self.size) / GIB:.3g} GiB, memory allows {self.gib:g}; "
                f"{_up_to(lambda n: self.replicate(n) <= self.bytes, self.size)}"
            )
        need = kernel(self.size, self.kernel_samples, self.shape)
        if need > self.bytes:
            fits = _up_to(
                lambda n: kernel(self.size, n, self.shape) <= self.bytes, self.kernel_samples
            )
            raise RetrofitError(
                f"kernel_samples {self.kernel_samples}: the tangent kernels of a network of {self.size} units take "
                f"{need / GIB:.3g} GiB, memory allows {self.gib:g}; {fits}"
            )

    def replicates_at_once(self, wanted: int) -> int:
        """How many replicates train side by side."""
        each = self.arms * training(self.size, self.batch, self.shape)
        spare = self.bytes - (self.replicate(self.size) - each)
        return max(1, min(wanted, int(spare // each)))


def _up_to(fits: Callable[[int], bool], too_large: int) -> str:
    low, high = 0, too_large
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return f"up to {low} would fit" if low else "not even 1 would fit"

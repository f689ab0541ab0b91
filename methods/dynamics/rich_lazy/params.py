"""What a study may say about rich and lazy learning (no heavy imports here)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from methods.dynamics.rich_lazy.memory import SHAPES, Budget, Shape
from methods.study.errors import RetrofitError
from methods.study.registry import MethodParams, register

Structure = Literal["gaussian", "dale", "cell_types", "chain", "connectome"]
Rank = Annotated[int, Field(ge=1)] | Literal["tenth", "third", "full"]
"""A number, or a share of the network's size."""
TaskName = Literal["two_alternative", "delayed_match", "context", "lines"]


@register("methods.dynamics.rich_lazy.experiment:apply", paper="2310.08513")
class RichLazy(MethodParams):
    """Train rate networks from initial weights of several ranks, or of one structure beside its null networks, and
    measure how far representation, tangent kernel and weights move.

    All networks of all replicates are trained side by side.  A replicate's networks share inputs, input and output
    weights and the Gaussian matrix, so they are compared in pairs.  Ranks give arms `rank-1`, `full`; a structure
    gives `own` and its nulls.
    """

    needs_base: ClassVar[bool] = False
    optional_roles: ClassVar[tuple[str, ...]] = ("train",)

    method: Literal["rich_lazy"] = "rich_lazy"
    task: TaskName = Field(
        "two_alternative",
        description="A task of neuroscience, or `lines`: the images of the data role `train`, line by line.",
    )
    size: int = Field(300, ge=2, description="Hidden units N.")
    structure: Structure = Field(
        "gaussian",
        description="Of the initial recurrent weights; `connectome`: of the table of the data role `train`.",
    )
    ranks: list[Rank] | None = Field(
        None,
        description="Truncate to each of these ranks, rising: numbers, or shares of the size (the paper's 1, 30, 100, "
        "300 are [1, tenth, third, full]); null = the matrix as it is.",
    )
    nulls: list[Literal["gaussian", "shuffled"]] = Field(
        [],
        description="Null networks beside a structure: Gaussian, or its own weights in random places.",
    )
    normalize: Literal["fro", "spectral"] = Field(
        "fro",
        description="What all initial weights share with the Gaussian ones: Frobenius norm, or spectral radius.",
    )
    gain: float = Field(1.25, gt=0, description="g of W_gauss = g randn / sqrt(N).")
    alpha: float = Field(1.0, gt=0, le=1, description="dt / tau.")
    inhibitory: float = Field(0.2, gt=0, lt=1, description="dale: share of inhibitory units.")
    balanced: bool = Field(True, description="dale: inhibition as much stronger as it is rarer.")
    tau: float = Field(0.05, ge=-0.5, le=0.5, description="chain: correlation of W_ij and W_jk.")
    iterations: int = Field(10_000, ge=1, description="Updates.")
    batch: int = Field(32, ge=1, description="Sequences in an update; the paper: 32, images 200.")
    learning_rate: float = Field(0.003, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    replicates: int = Field(8, ge=1, description="Independent draws of weights and data.")
    probe_batches: int = Field(
        10, ge=1, description="Batches of fixed inputs for loss and representation."
    )
    kernel_samples: int | None = Field(
        None,
        ge=1,
        description="Fixed inputs for the tangent kernel; null = one batch, as published.",
    )
    evaluate_every: int = Field(
        50, ge=1, description="Updates between two looks at the fixed inputs."
    )
    target_loss: float | None = Field(
        None,
        gt=0,
        description="Measure also where the loss on the fixed inputs first falls to this; null = at the end only.",
    )
    memory: float = Field(4.0, gt=0, description="GiB that the job may take.")
    chunk: int | None = Field(
        None,
        ge=1,
        description="Replicates at once; null = as many as `memory` allows. Changes no result.",
    )

    @property
    def arms(self) -> list[str]:
        """Names of one replicate's networks."""
        if self.ranks is None:
            return ["own", *self.nulls]
        return [rank if isinstance(rank, str) else f"rank-{rank}" for rank in self.ranks]

    @property
    def numbers(self) -> list[int] | None:
        """`ranks` as numbers."""
        if self.ranks is None:
            return None
        shares = {"tenth": 10, "third": 3, "full": 1}
        return [
            max(1, round(self.size / shares[rank])) if isinstance(rank, str) else rank
            for rank in self.ranks
        ]

    def budget(self, shape: Shape) -> Budget:
        """What the run needs, on sequences of that shape."""
        probe = self.probe_batches * self.batch
        samples = self.kernel_samples or self.batch
        return Budget(self.memory, self.size, len(self.arms), self.batch, probe, samples, shape)

    @model_validator(mode="after")
    def _consistent(self) -> RichLazy:
        if self.numbers is not None:
            if not self.numbers or self.numbers != sorted(set(self.numbers)):
                raise ValueError(
                    f"ranks {self.ranks}, for size {self.size} {self.numbers}: at least one, rising, none twice"
                )
            if self.numbers[-1] > self.size:
                raise ValueError(
                    f"ranks: {self.numbers[-1]} is larger than the network of {self.size} units; "
                    f"allowed are 1 to {self.size}"
                )
            if self.nulls:
                raise ValueError("ranks and nulls: give one or the other")
        if self.nulls and self.structure == "gaussian":
            raise ValueError("nulls belong to a structure; gaussian is itself the null")
        if self.structure == "chain" and self.tau == 0:
            raise ValueError("tau 0: a chain needs a correlation that is not 0")
        if self.kernel_samples and self.kernel_samples > self.probe_batches * self.batch:
            raise ValueError(
                f"kernel_samples {self.kernel_samples} are more than the {self.probe_batches * self.batch} fixed inputs"
            )
        if self.task in SHAPES:
            try:
                self.budget(SHAPES[self.task]).check()
            except RetrofitError as error:
                raise ValueError(str(error)) from None
        return self


@register("methods.dynamics.rich_lazy.linear:apply", paper="2310.08513")
class RichLazyLinear(MethodParams):
    """The two-layer linear network by gradient flow, beside the closed form of its kernel alignment."""

    needs_base: ClassVar[bool] = False

    method: Literal["rich_lazy_linear"] = "rich_lazy_linear"
    inputs: int = Field(10, ge=2, description="d, dimensions of the whitened inputs.")
    hidden: int = Field(20, ge=1, description="Hidden units h.")
    start: Literal["random", "aligned"] = Field(
        "random", description="First layer: random spaces of each rank, or rank 1 along the task."
    )
    ranks: list[Annotated[int, Field(ge=1)]] = Field(
        [1, 2, 5, 10], description="Equal singular values, so many of them; `aligned` has rank 1."
    )
    scale: float = Field(
        0.01, gt=0, le=0.1, description="||W_1(0)||_F; the theory is for small ones."
    )
    replicates: int = Field(200, ge=2, description="Draws of weights and target for every rank.")

    @model_validator(mode="after")
    def _consistent(self) -> RichLazyLinear:
        most = min(self.inputs, self.hidden)
        if not self.ranks or self.ranks != sorted(set(self.ranks)):
            raise ValueError(f"ranks {self.ranks}: at least one, rising, none twice")
        if self.ranks[-1] > most:
            raise ValueError(
                f"ranks: {self.ranks[-1]} is more than {self.inputs} inputs and {self.hidden} hidden units have; "
                f"allowed are 1 to {most}"
            )
        return self

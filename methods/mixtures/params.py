"""What a study may say about mixtures of experts (no heavy imports here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from methods.study.registry import MethodParams, register

DesignName = Literal["dense-2", "top1-2", "top2-3", "temperature-2"]
TRUE: dict[str, tuple[int, int | None]] = {
    "dense-2": (2, None),
    "top1-2": (2, 1),
    "top2-3": (3, 2),
    "temperature-2": (2, None),
}
"""Design → its experts, and how many of them answer (None: all)."""
ActivationName = Literal["identity", "relu", "sigmoid", "tanh", "gelu"]


class _Mixtures(MethodParams):
    needs_base: ClassVar[bool] = False


@register("methods.mixtures.rates:apply", paper="2309.13850")
class MoERates(_Mixtures):
    """How fast maximum likelihood learns a mixture of experts: replicates of a design at growing sizes, by EM."""

    method: Literal["moe_rates"] = "moe_rates"
    design: DesignName = Field(
        "dense-2",
        description="The truth. dense-2: two experts, both answer; top1-2: the same, one answers; top2-3: two of three "
        "answer; temperature-2: two experts under a temperature.",
    )
    activation: ActivationName = Field(
        "identity",
        description="phi of the gate's score, in truth and fit; with temperature-2 only.",
    )
    extra: int = Field(0, ge=0, description="Experts of the fit beyond the true ones.")
    more_active: int = Field(
        0, ge=0, description="Experts that answer for one x in the fit beyond those of the truth."
    )
    ranking: Literal["slope", "logit"] = Field(
        "slope", description="What the K largest are of: beta1·x as in the paper, or with beta0."
    )
    start: Literal["truth", "independent"] = Field(
        "truth",
        description="truth: at the true numbers with a little noise, as published; independent: from clusters of the "
        "data, the best of `restarts`.",
    )
    restarts: int = Field(5, ge=1, description="Independent starts of each replicate.")
    sizes: list[int] = Field(
        [100, 316, 1000, 3162, 10_000, 31_623, 100_000],
        min_length=3,
        description="Numbers of rows; the paper has 200 between 100 and 100 000.",
    )
    fit_from: int = Field(100, ge=20, description="Smallest size that the slopes are fitted to.")
    replicates: int = Field(40, ge=2, description="Data sets of each size; the paper: 40.")
    iterations: int = Field(2000, ge=1, description="Of EM at most; the paper: 2000.")
    tolerance: float = Field(
        1e-6, gt=0, description="Rise of the log-likelihood that ends EM; the paper: 1e-6."
    )

    @model_validator(mode="after")
    def _consistent(self) -> MoERates:
        if self.true_active is None and self.more_active:
            raise ValueError(f"in {self.design} every expert answers: leave out `more_active`")
        if self.true_active is not None and self.active > self.experts:
            raise ValueError(
                f"extra {self.extra}, more_active {self.more_active}: {self.active} active of {self.experts} experts"
            )
        if sorted(set(self.sizes)) != self.sizes or self.sizes[0] < 20:
            raise ValueError("sizes must grow, and begin with 20 or more")
        if sum(size >= self.fit_from for size in self.sizes) < 3:
            raise ValueError(f"fit_from {self.fit_from}: leaves fewer than three of the sizes")
        if self.activation != "identity" and self.design != "temperature-2":
            raise ValueError("an activation belongs to the design temperature-2")
        return self

    @property
    def experts(self) -> int:
        """Experts of the fit."""
        return TRUE[self.design][0] + self.extra

    @property
    def true_active(self) -> int | None:
        """Experts that answer for one x in the truth; None: all."""
        return TRUE[self.design][1]

    @property
    def active(self) -> int | None:
        """Experts that answer for one x in the fit; None: all."""
        return None if self.true_active is None else self.true_active + self.more_active


@register("methods.mixtures.splitting:apply", paper="2309.13850")
class MoESplit(_Mixtures):
    """How many experts have to be active: the truth with one atom split in `pieces`, at a distance that shrinks."""

    stochastic: ClassVar[bool] = False
    method: Literal["moe_split"] = "moe_split"
    pieces: int = Field(2, ge=1, description="Atoms in the cell of the true atom that is split.")
    active: int = Field(
        2, ge=1, description="Experts that answer for one x in the mixture with the split atom."
    )
    distances: list[float] = Field(
        [0.03, 0.01, 3e-3, 1e-3, 1e-4],
        min_length=2,
        description="Of the pieces from the true atom, falling, below its variance of 0.09.",
    )

    @model_validator(mode="after")
    def _shrink(self) -> MoESplit:
        if sorted(set(self.distances), reverse=True) != self.distances or not (
            self.distances[-1] > 0 and self.distances[0] < 0.09
        ):
            raise ValueError("distances must fall, from less than 0.09, and stay above 0")
        return self


@register("methods.mixtures.information:apply", paper="2401.13875")
class MoEFisher(_Mixtures):
    """Fisher information of a gate with temperature at its true numbers: is there a direction without any?"""

    method: Literal["moe_fisher"] = "moe_fisher"
    activation: ActivationName = Field("sigmoid", description="phi of the gate's score.")
    rows: int = Field(200_000, ge=1000, description="Scores that the information is a mean of.")

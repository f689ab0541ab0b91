"""What a study may say about ordinal regression with a rare class (no heavy imports here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from methods.study.registry import MethodParams, register

DesignName = Literal[
    "sparse-third-5",
    "sparse-third-5.5",
    "sparse-third-6",
    "sparse-half-5",
    "sparse-half-5.5",
    "sparse-half-6",
    "dense-4.5",
    "dense-5",
    "dense-5.5",
    "dense-6",
]


class OrdinalParams(MethodParams):
    """What all ordinal methods share: where the replicates of a setting come from.

    One run covers every replicate. Without `design` the data role `train` names a table, of which each
    replicate is a random split, stratified by class.
    """

    needs_base: ClassVar[bool] = False
    optional_roles: ClassVar[tuple[str, ...]] = ("train",)

    design: DesignName | None = Field(
        None,
        description="A synthetic design of the paper (sections 4.1, 4.2), named by density and last "
        "intercept; null = split the table of the data role `train`.",
    )
    rows: int = Field(2500, ge=100, description="Rows of one synthetic data set; the paper: 2500.")
    replicates: int = Field(100, ge=1, description="Draws of a design; the paper: 700.")
    splits: int = Field(20, ge=1, description="Random splits of a table; the paper: 350 and 49.")
    test_share: float = Field(0.1, gt=0, lt=1, description="Share of a table's rows held out.")


@register("methods.ordinal.presto:apply", paper="2305.18700")
class Presto(OrdinalParams):
    """PRESTO: cumulative logits whose slopes may differ between classes, with a penalty on the differences
    of adjacent ones; the penalty's weight is chosen by cross-validation.
    """

    method: Literal["presto"] = "presto"
    l1_ratio: float = Field(
        1.0, ge=0, le=1, description="1 = lasso (the paper), 0 = ridge (its PRESTO_L2)."
    )
    penalize_first: bool = Field(
        True,
        description="Penalise the first class's slopes too, as published; false shrinks to the "
        "proportional odds model instead of to no slopes at all.",
    )
    feasible: Literal["observed", "all_rows"] = Field(
        "observed",
        description="Cumulative curves in order where the data ask for it, or on every training row.",
    )
    lambdas: int | None = Field(
        None, ge=2, description="Penalties on the path; null = as the paper: 20, for a table 100."
    )
    ratio: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Smallest penalty over largest; null = as the paper: .01, for a table 1e-4.",
    )
    folds: int = Field(5, ge=2, description="Folds of the cross-validation.")
    code: Literal["paper", "published_code"] = Field(
        "paper",
        description="`published_code` computes what the released code does, with its defects D1 "
        "(intercepts), D2 (cross-validation) and D5 (line search).",
    )

    def path_shape(self) -> tuple[int, float]:
        """(number of penalties, smallest over largest)."""
        count, ratio = (20, 0.01) if self.design else (100, 1e-4)
        return self.lambdas or count, self.ratio or ratio

    @model_validator(mode="after")
    def _published_code_is_one_thing(self) -> Presto:
        if self.code == "published_code" and (
            not self.penalize_first or self.feasible != "observed"
        ):
            raise ValueError(
                "code: published_code has its own domain and penalises the first block; "
                "leave out `feasible` and `penalize_first`"
            )
        return self


@register("methods.ordinal.proportional_odds:apply", paper="2305.18700")
class ProportionalOdds(OrdinalParams):
    """The proportional odds model by maximum likelihood (MASS::polr, OrderedModel): one slope vector."""

    method: Literal["proportional_odds"] = "proportional_odds"


@register("methods.ordinal.rare_logit:apply", paper="2305.18700")
class RareLogit(OrdinalParams):
    """Logistic regression of the rare class against all others, by maximum likelihood."""

    method: Literal["rare_logit"] = "rare_logit"

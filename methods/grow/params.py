"""What a study may say about networks that grow (no torch here)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from methods.models.networks.params import FullyConnectedSizes, ResidualSizes, WideResidualSizes
from methods.study.errors import RetrofitError
from methods.study.registry import MethodParams, register
from methods.study.spec_model import SpecModel

PAPER = "2311.04251"
WIDTHS = {
    "wide_residual": ("width", "stem"),
    "residual": ("width",),
    "fully_connected": ("width",),
}
"""The sizes of each architecture that growth doubles."""


GrowingSizes = Annotated[
    WideResidualSizes | ResidualSizes | FullyConnectedSizes, Field(discriminator="architecture")
]
"""Networks whose width can double, told apart by `architecture`."""


class Recipe(SpecModel):
    """SGD on labelled images, as in the paper's runs on CIFAR."""

    learning_rate: float = Field(0.1, gt=0, description="At the highest point of the first cycle.")
    final_rate: float = Field(1e-6, ge=0, description="Where each cosine ends.")
    warm_up: float = Field(2.0, ge=0, description="Epochs in which the rate rises.")
    warm_up_rate: float = Field(1e-5, ge=0, description="Where it rises from.")
    batch: int = Field(128, ge=2)
    momentum: float = Field(0.9, ge=0, lt=1, description="With Nesterov's step.")
    weight_decay: float = Field(5e-4, ge=0, description="Of everything but coefficients.")
    shift: int = Field(
        4, ge=0, description="The most pixels by which images are shifted at random."
    )
    mirror: bool = Field(True, description="Mirror half of the images.")
    cutout: int = Field(16, ge=0, description="Side of a square that is cut out of each image.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: autocast; weights and statistics stay float32."
    )
    validation: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the training images held out for the curve of accuracy, where the "
        "study has no data of the role `validation`. It chooses nothing.",
    )

    @model_validator(mode="after")
    def _falls(self) -> Recipe:
        if self.final_rate > self.learning_rate:
            raise ValueError(
                f"final_rate {self.final_rate} lies above learning_rate {self.learning_rate}"
            )
        return self


def _even(network: GrowingSizes) -> None:
    for name in WIDTHS[network.architecture]:
        size = getattr(network, name)
        if size % 2:
            raise ValueError(
                f"network.{name} {size} is odd and has no half, which the network has before it "
                f"grows; allowed are even numbers, for example {size + 1}"
            )


class _Trains(MethodParams, Recipe):
    roles: ClassVar[tuple[str, ...]] = ("train",)
    optional_roles: ClassVar[tuple[str, ...]] = ("validation",)


@register("methods.grow.scratch:apply")
class FromScratch(_Trains):
    """Train an ordinary network from scratch: what growth is held against, and what `widen` starts from."""

    needs_base: ClassVar[bool] = False

    method: Literal["from_scratch"] = "from_scratch"
    network: GrowingSizes = Field(
        WideResidualSizes(), description="Architecture and sizes of the large network."
    )
    size: Literal["large", "small"] = Field(
        "large", description="small: half of every width, as that of a network before it grows."
    )
    epochs: int = Field(200, ge=1, description="Passes over the images.")
    times: float = Field(
        1.0,
        gt=0,
        description="Epochs are multiplied by this, to spend as much as another way does.",
    )

    @model_validator(mode="after")
    def _has_a_half(self) -> FromScratch:
        if self.size == "small":
            _even(self.network)
        return self

    @property
    def all_epochs(self) -> int:
        """Epochs times `times`, at least one."""
        return max(1, round(self.epochs * self.times))


@register("methods.grow.train_members:apply", paper=PAPER)
class MixtureMembers(_Trains):
    """Train the two small networks of MixtureGrowth in template form, one after the other.

    What is left is both; its logits are the sum of theirs until `mixture_growth` joins them.
    """

    needs_base: ClassVar[bool] = False

    method: Literal["mixture_members"] = "mixture_members"
    network: GrowingSizes = Field(
        WideResidualSizes(), description="Architecture and sizes of the network to end at."
    )
    epochs: int = Field(200, ge=1, description="Passes over the images for each of the two.")
    templates: int | list[int] = Field(
        2, description="Templates in each set of a layer, or one number for each set."
    )
    sets: list[int] = Field(
        [0, 1, 0, 1],
        min_length=4,
        max_length=4,
        description="The set of templates that members 0 to 3 mix; 2 and 3 are the new blocks "
        "above and below the diagonal.",
    )
    share: bool = Field(
        False, description="Layers of one shape mix the same templates, as many as theirs together."
    )
    initialisation: Literal["kaiming", "published_code"] = Field(
        "kaiming",
        description="published_code: templates too small by the root of their outputs, and "
        "coefficients shorter than 1.",
    )

    @model_validator(mode="after")
    def _two_members(self) -> MixtureMembers:
        _even(self.network)
        if set(self.sets) != set(range(1 + max(self.sets))):
            raise ValueError(f"sets {self.sets}: count from 0 without gaps, as in [0, 1, 0, 1]")
        if self.sets[0] == self.sets[1]:
            raise ValueError(
                f"sets {self.sets}: members 0 and 1 mix the same templates, so training the second "
                "would change the first; give them sets of their own, as in [0, 1, 0, 1]"
            )
        counts = self.templates if isinstance(self.templates, list) else [self.templates]
        if min(counts, default=0) < 1 or len(counts) not in (1, 1 + max(self.sets)):
            raise ValueError(
                f"templates {self.templates}: a positive number, or one for each of the "
                f"{1 + max(self.sets)} sets"
            )
        if self.initialisation == "published_code" and len(set(counts)) > 1:
            raise ValueError(
                f"templates {self.templates}: the published initialisation draws one matrix of "
                "coefficients for all sets, which needs equally many templates; choose kaiming"
            )
        return self


class Grows(_Trains):
    """What every way to grow has in common: the training after it."""

    epochs: int = Field(40, ge=0, description="Passes over the images after growth.")
    cycles: int = Field(4, ge=1, description="Cosines into which the epochs are cut.")
    cycle_decay: float = Field(
        0.5, gt=0, le=1, description="What the highest rate of each cycle is of the one before."
    )
    learning_rate: float = Field(1e-4, gt=0, description="At the highest point of the first cycle.")
    final_rate: float = Field(3e-5, ge=0, description="Where each cosine ends.")
    warm_up: float = Field(1.0, ge=0, description="Epochs in which the rate rises.")

    @model_validator(mode="after")
    def _cycles_fit(self) -> Grows:
        if self.epochs and self.cycles > self.epochs:
            raise ValueError(f"{self.cycles} cycles do not fit into {self.epochs} epochs")
        return self


@register("methods.grow.mixture_growth:apply", paper=PAPER)
class MixtureGrowth(Grows):
    """Join the two networks of `mixture_members` into one of twice their width, and train it."""

    follows: ClassVar[tuple[str, ...]] = ("mixture_members",)
    method: Literal["mixture_growth"] = "mixture_growth"
    policy: Literal["none", "zero", "random", "copy", "orthogonal", "published_code"] = Field(
        "orthogonal",
        description="Coefficients of the new blocks; published_code: what the published default "
        "computes, which is orthogonal with four templates or more only.",
    )
    noise: float = Field(
        1.0,
        ge=0,
        description="random: the range; copy: the length of what is added; orthogonal and "
        "published_code: a factor.",
    )
    keep_templates: bool = Field(
        False, description="Leave the result in template form instead of ordinary weights."
    )

    def check_base(self, config: dict) -> None:
        """Refuse a base that is no pair of members."""
        if not config.get("notes", {}).get("mixture"):
            raise RetrofitError(
                "mixture_growth joins what mixture_members leaves; this base is one network, which "
                "`widen` can grow"
            )


@register("methods.grow.widening:apply")
class Widen(Grows):
    """Grow one trained network to twice its width by a baseline's rule, and train it.

    net2net: every new unit copies one, and what reads copies divides by how many there are (arXiv
    1511.05641). lemon: the same with unequal shares, so that copies part at once (arXiv 2310.07999).
    random: new units are drawn anew around the trained ones.
    """

    method: Literal["widen"] = "widen"
    rule: Literal["net2net", "lemon", "random"] = "lemon"
    noise: float = Field(
        0.0,
        ge=0,
        description="net2net: deviation of what is added to the weights of copies, over theirs; "
        "without it copies of equal shares stay equal.",
    )

    def check_base(self, config: dict) -> None:
        """Refuse an architecture without a width to double."""
        architecture = config.get("architecture")
        if architecture not in WIDTHS:
            raise RetrofitError(
                f"widen knows no width of '{architecture}'; allowed: {', '.join(WIDTHS)}"
            )

"""What a study may say about tuning a frozen text model for labelled tasks (no torch here)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from methods.study.errors import RetrofitError
from methods.study.registry import MethodParams, register

RUN = "methods.adapt.prompt_tuning.apply:apply"


class TextTuning(MethodParams):
    """What all methods of this family share. One run tunes the base for every task of the data role `train`,
    each by itself, and measures it on the split of the same data set in the role `test`.
    """

    roles: ClassVar[tuple[str, ...]] = ("train", "test")

    length: int = Field(256, ge=4, description="Tokens of a text that are kept, s; the paper: 256.")
    batch: int = Field(32, ge=1)
    steps: int = Field(30_000, ge=1, description="Updates; DePT: up to 300 000 for large tasks.")
    warm_up: int = Field(500, ge=0, description="Updates of rising rate; a linear decay follows.")
    head_learning_rate: float = Field(
        1e-2, gt=0, description="Of the classifier on an encoder, which has no words to say."
    )
    validation: int = Field(0, ge=0, description="Training texts held out, never trained on.")
    evaluations: int = Field(
        0, ge=0, description="How often held-out accuracy is taken; the best state is kept."
    )
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of the frozen weights; what is trained stays float32."
    )
    words: dict[str, dict[str, str]] = Field(
        {}, description="Task → {class: the word that a language model says for it}."
    )
    ask: dict[str, str] = Field(
        {}, description="Task → what follows the text, before a language model answers."
    )

    @property
    def prefix(self) -> int:
        """Virtual tokens before the text."""
        return 0

    @model_validator(mode="after")
    def _schedule_fits(self) -> TextTuning:
        if self.warm_up >= self.steps:
            raise ValueError(f"warm_up ({self.warm_up}) must be less than steps ({self.steps})")
        if self.evaluations and not self.validation:
            raise ValueError("evaluations need `validation`: texts held out of training")
        if self.evaluations > self.steps:
            raise ValueError(f"{self.evaluations} evaluations in {self.steps} steps")
        return self

    def check_base(self, config: dict) -> None:
        """Refuse a prompt that leaves the text no room in the model's context."""
        context = config.get("max_position_embeddings") or config.get("n_positions")
        if context and self.prefix + self.length > context:
            raise RetrofitError(
                f"{self.method}: a prompt of {self.prefix} tokens and a text of {self.length} exceed the "
                f"model's context of {context}; shorten tokens or length"
            )


class _Prompt(TextTuning):
    learning_rate: float = Field(0.3, gt=0, description="Of the prompt; DePT: .3 to .5.")
    initial: Literal["text", "vocabulary", "normal"] = Field(
        "text", description="The prompt at the start: a text's embeddings, random words', N(0, 1)."
    )
    initial_text: str = Field("Classify this text:", min_length=1)


@register(RUN, paper="2104.08691")
class PromptTuning(_Prompt):
    """Prompt tuning (Lester et al.), by peft: embeddings put before the text, and nothing else, are trained."""

    method: Literal["prompt_tuning"] = "prompt_tuning"
    tokens: int = Field(100, ge=1, description="Length of the prompt, l.")

    @property
    def prefix(self) -> int:
        """l."""
        return self.tokens


class Decomposed(_Prompt):
    """What DePT and EPT share: a short prompt and a low-rank update."""

    tokens: int = Field(40, ge=1, description="Length of the short prompt, m.")
    rank: int | None = Field(
        None, ge=0, description="r; null: as many as a prompt of `budget` tokens would pay for."
    )
    budget: int = Field(100, ge=1, description="l, the plain prompt whose parameters are spent.")
    alpha: float = Field(8.0, gt=0, description="γ = α/√r; in DePT's code, not in its equation.")
    low_rank_learning_rate: float = Field(5e-4, gt=0, description="Of A and B and all but P.")

    @model_validator(mode="after")
    def _budget_pays(self) -> Decomposed:
        if self.rank is None and self.tokens > self.budget:
            raise ValueError(f"a budget of {self.budget} does not pay for {self.tokens} tokens")
        return self

    @property
    def prefix(self) -> int:
        """m."""
        return self.tokens


@register(RUN, paper="2309.05173")
class Dept(Decomposed):
    """DePT: a shorter prompt, and a low-rank update of the input embeddings by position."""

    fusion: ClassVar[str] = "none"
    fusion_scale: ClassVar[float] = 1.0
    fusion_width: ClassVar[int | None] = None
    spaces: ClassVar[int] = 0

    method: Literal["dept"] = "dept"


@register(RUN, paper="2405.11464")
class Ept(Decomposed):
    """EPT: DePT with prompt fusion and multi-space projection (both reconstructed from the abstract)."""

    method: Literal["ept"] = "ept"
    fusion: Literal["none", "cross_attention", "self_attention"] = Field(
        "cross_attention", description="How the short prompt reads the update U; none: DePT's."
    )
    fusion_scale: float = Field(1.0, description="β before what was read.")
    fusion_width: int | None = Field(
        None, ge=1, description="Width of learned queries and keys; null: none are learned."
    )
    spaces: int = Field(4, ge=0, description="K subspaces; 0: DePT's.")
    bottleneck: int = Field(4, ge=1, description="Width of a subspace, b.")
    activation: Literal["gelu", "none"] = "gelu"
    gate: Literal["mean", "token", "static"] = Field(
        "mean", description="The gate sees the mean of the prompt, each token, or nothing."
    )
    temperature: float = Field(1.0, gt=0)


@register(RUN, paper="2106.09685")
class TextLora(TextTuning):
    """Control: low-rank adapters on the frozen model, by peft."""

    method: Literal["text_lora"] = "text_lora"
    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)
    targets: list[str] = Field(
        ["query", "value"], min_length=1, description="Names of the linear layers that are adapted."
    )
    learning_rate: float = Field(1e-3, gt=0)


@register(RUN)
class TextFineTune(TextTuning):
    """Control: all weights are trained."""

    method: Literal["text_finetune"] = "text_finetune"
    learning_rate: float = Field(5e-5, gt=0)
    keep: bool = Field(
        True, description="Keep the whole model of every task; false keeps its head and scores."
    )


@register(RUN)
class TextProbe(TextTuning):
    """Control: the model as it is; an encoder's classifier is trained, a language model is only asked."""

    method: Literal["text_probe"] = "text_probe"

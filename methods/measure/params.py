"""What a study may measure on a model. No torch here: planning and `--help` read this file."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from methods.study.registry import MeasureParams, register

Dtype = Literal["bfloat16", "float32"]


@register("methods.measure.perplexity:measure")
class Perplexity(MeasureParams):
    """Perplexity of a language model on every text of the role `eval`.

    The convention of the GPTQ and AWQ papers: documents joined by an empty line, tokenised once, cut
    into windows that do not overlap, the tail dropped; exp of the mean over windows of the mean
    negative log-likelihood of all tokens of a window but the first.
    """

    roles: ClassVar[tuple[str, ...]] = ("eval",)

    measure: Literal["perplexity"] = "perplexity"
    window: int = Field(512, ge=2, description="Tokens in a window; the papers use 2048.")
    windows: int | None = Field(
        None, ge=1, description="How many windows of each text; null = all."
    )
    select: Literal["spread", "first"] = Field(
        "spread", description="Which ones, when not all: evenly over the text, or its beginning."
    )
    dtype: Dtype = Field(
        "bfloat16",
        description="bfloat16 is 2 to 4 times faster on CPUs that know it and moves the mean "
        "negative log-likelihood by about 0.0005.",
    )
    batch: int = Field(8, ge=1, description="Windows in one forward pass.")


@register("methods.measure.size:measure")
class Size(MeasureParams):
    """Parameters, non-zeros, and what the model weighs as stored and as deployed."""

    measure: Literal["size"] = "size"
    dense_bits: Literal[16, 32] = Field(
        16, description="Bits of a dense number once deployed (the artifact itself keeps float32)."
    )
    scale_bits: Literal[16, 32] = Field(
        16, description="Bits of a quantisation scale once deployed (16 in the AWQ GEMM format)."
    )


@register("methods.measure.recall:measure")
class Recall(MeasureParams):
    """How much of a random passage a language model repeats after `gap` other tokens."""

    roles: ClassVar[tuple[str, ...]] = ("eval",)

    measure: Literal["recall"] = "recall"
    gaps: list[int] = Field(
        [16, 128, 384], min_length=1, description="Tokens between the passage and its repetition."
    )
    passage: int = Field(32, ge=2, description="Tokens of the passage.")
    cue: int = Field(8, ge=1, description="First tokens of the repetition, not asked for.")
    items: int = Field(32, ge=1, description="Probes for each gap.")
    batch: int = Field(8, ge=1, description="Probes in one forward pass.")
    dtype: Dtype = "bfloat16"

    @model_validator(mode="after")
    def _something_asked(self) -> Recall:
        if self.cue >= self.passage:
            raise ValueError(f"cue {self.cue} leaves nothing of a passage of {self.passage}")
        if min(self.gaps) < 1 or len(set(self.gaps)) < len(self.gaps):
            raise ValueError(f"gaps are different positive lengths, found {self.gaps}")
        return self


@register("methods.measure.decode_latency:measure")
class DecodeLatency(MeasureParams):
    """Milliseconds per token of cached decoding after contexts of several lengths.

    Depends on the machine and its load: shown in tables, never compared by CI.
    """

    comparable: ClassVar[bool] = False

    measure: Literal["decode_latency"] = "decode_latency"
    contexts: list[int] = Field([512, 2048], min_length=1, description="Tokens before decoding.")
    tokens: int = Field(16, ge=2, description="Tokens decoded and timed after each context.")
    dtype: Dtype = Field("float32", description="On a CPU, float32 is faster with a long cache.")

    @field_validator("contexts")
    @classmethod
    def _positive(cls, contexts: list[int]) -> list[int]:
        if min(contexts) < 1 or len(set(contexts)) < len(contexts):
            raise ValueError(f"contexts are different positive lengths, found {contexts}")
        return contexts


@register("methods.measure.classification:measure")
class Classification(MeasureParams):
    """Accuracy, cross-entropy and calibration of a network on every image set of the role `test`."""

    roles: ClassVar[tuple[str, ...]] = ("test",)

    measure: Literal["classification"] = "classification"
    batch: int = Field(1000, ge=1, description="Images in one forward pass.")
    bins: int = Field(15, ge=1, description="Bins of the calibration error, equally filled.")

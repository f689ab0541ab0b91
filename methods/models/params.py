"""What a file of `configs/models/` may say. No torch here.

A base model is declared like a data set: raw files pinned by checksum, places that have them, and how
they become a model directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from methods.data.spec import AnySource, RawFile
from methods.study.errors import choices
from methods.study.spec_model import SpecModel


class ModelDeclaration(SpecModel):
    """One pretrained model."""

    title: str
    licence: str
    """Of the weights, and how their authors want to be named."""
    description: str
    layout: Literal["gguf", "directory", "network"]
    """gguf: one GGUF file (several are joined in the order of `files`), made dense.
    directory: the files of a transformers model directory (config.json, *.safetensors, tokenizer).
    network: one file of published PyTorch weights of a vision network that `config` describes."""
    kind: Literal["encoder", "seq2seq"] | None = None
    """layout directory: an encoder (BERT) or an encoder with a decoder (T5); left out: a causal language model."""
    files: dict[str, RawFile] = Field(min_length=1)
    sources: list[AnySource] = Field(min_length=1)
    """Tried in this order until one serves."""
    config: dict[str, Any] = {}
    """What the model's config.json must say; lets a study be checked before anything is downloaded.
    layout network: what to build (architecture, arguments) and how images enter (mean, std)."""
    caveat: str | None = None
    """What a reader of a table over this model must know."""

    @model_validator(mode="after")
    def _consistent(self) -> ModelDeclaration:
        for number, source in enumerate(self.sources):
            for name in source.files:
                if name not in self.files:
                    raise ValueError(
                        f"sources[{number}] has a file '{name}' that `files` does not declare; "
                        f"{choices(name, self.files)}"
                    )
                if self.files[name].sha256 is None and source.kind != "path":
                    raise ValueError(f"file '{name}' comes over the network and needs a sha256")
        offered = {name for source in self.sources for name in source.files}
        missing = sorted(set(self.files) - offered)
        if missing:
            raise ValueError(f"no source has the file '{missing[0]}'")
        for name in self.files:
            if Path(name).name != name or name in ("", ".", ".."):
                raise ValueError(f"'{name}' is no plain file name")
        if self.layout == "network":
            if len(self.files) > 1:
                raise ValueError("a vision network comes from one file")
            wanted = {"architecture", "arguments", "mean", "std"} - set(self.config)
            if wanted:
                raise ValueError(f"config of a vision network lacks {', '.join(sorted(wanted))}")
            if any(file.sha256 is None for file in self.files.values()):
                raise ValueError("PyTorch weights are pickles and need a sha256 wherever they lie")
        if self.kind is not None and self.layout != "directory":
            raise ValueError(f"kind '{self.kind}' goes with layout directory")
        if self.layout == "directory" and "config.json" not in self.files:
            raise ValueError("a model directory needs the file config.json")
        return self

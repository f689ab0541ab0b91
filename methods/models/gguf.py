"""A GGUF file as a plain dense model: no trace of the quantisation it came with.

transformers reads GGUF by dequantising it, but the model keeps a quantiser and refuses to be saved.
Here its weights move into a freshly built model of the same configuration, exactly.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError

from methods.models.language import LanguageModel, build, without_progress_bars
from methods.study.errors import RetrofitError

MAGIC = b"GGUF"


@contextlib.contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses the file anew for configuration, tokenizer and weights, and builds the table
    of tensor names once for every module: two thirds of the time. Inside, each happens once.
    """
    try:
        import gguf
    except ImportError:
        raise RetrofitError("reading GGUF needs the package gguf: pip install gguf") from None
    slow = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in slow.items():
            setattr(gguf, name, functools.cache(function))
        yield
    finally:
        for name, function in slow.items():
            setattr(gguf, name, function)


def read(path: Path) -> LanguageModel:
    """The dense float32 model and tokenizer of one GGUF file.

    Raises RetrofitError: not a GGUF file, truncated, an architecture that cannot be read, the
    package `gguf` missing.
    """
    path = Path(path)
    if not path.is_file():
        raise RetrofitError(f"file {path} does not exist")
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise RetrofitError(f"{path} is no GGUF file")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where, name = str(path.parent), path.name
    # A bar of its own, which no setting of transformers silences.
    quiet = contextlib.redirect_stderr(io.StringIO())
    try:
        with without_progress_bars(), quiet, _parsed_once():
            tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name, local_files_only=True)
            source = AutoModelForCausalLM.from_pretrained(
                where, gguf_file=name, dtype=torch.float32, local_files_only=True
            )
    except (
        ValueError,
        KeyError,
        OSError,
        NotImplementedError,
        IndexError,
        SafetensorError,
    ) as error:
        raise RetrofitError(f"{path} cannot be read as a GGUF language model: {error}") from None
    settings = source.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = build(config, source.state_dict(), str(path))
    model.generation_config = source.generation_config
    return LanguageModel(model, tokenizer)

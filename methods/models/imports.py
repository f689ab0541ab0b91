"""Base models: from a declaration, the hub or a directory to a plain dense `LanguageModel`.

Weights are read from safetensors or GGUF only; pickled files, which can run code, are refused. A base
is float32 whatever it was stored in: methods fold scales and round against it, and a later cast to a
narrower type is a choice of the measurement.
"""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from methods.models import gguf, language
from methods.models.language import LanguageModel
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.run.context import Context

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
"""Of a hub repository: weights that cannot run code, configuration, tokenizer. No code, no pickles."""


def base(spec: Mapping[str, Any], context: Context) -> Any:
    """The model that a study's `base` names: a `LanguageModel`, or a vision `Network`.

    spec: `{huggingface, revision}`, `{path}`, or a declaration of `configs/models/` with its `name`.
    Raises RetrofitError: nothing there, no source reachable, damaged or pickled weights, another
    configuration than declared.
    """
    if "huggingface" in spec:
        model = from_hub(spec["huggingface"], spec.get("revision", "main"))
    elif "path" in spec:
        model = from_path(Path(spec["path"]))
    elif spec.get("layout") == "network":
        # By name: the checksum decides the weights, and language models do not hang on vision code.
        published = importlib.import_module("methods.models.networks.published")
        return published.from_declaration(spec, context)
    elif "layout" in spec:
        model = from_declaration(spec, context)
    else:
        raise RetrofitError(f"a base model is huggingface, path or a name, found {sorted(spec)}")
    model.model = model.model.to(torch.float32)
    model.model.requires_grad_(False)
    return model


def from_path(path: Path) -> LanguageModel:
    """A model directory of this machine, or one GGUF file."""
    if path.suffix == ".gguf":
        return gguf.read(path)
    return language.load(path)


def from_hub(repository: str, revision: str = "main") -> LanguageModel:
    """A model of the Hugging Face hub; the commit that `revision` stands for is kept in the notes."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        directory = Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(WANTED))
        )
    except HFValidationError:
        raise RetrofitError(
            f"'{repository}' is no hub repository (organisation/name); "
            "a directory of this machine is given as {path: …}"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RetrofitError(
            f"{repository} at {revision} cannot be had from the hub: {reason}"
        ) from None
    if not any(directory.glob("*.safetensors")):
        raise RetrofitError(
            f"{repository} at {revision} has no safetensors weights; pickled weights are not loaded, "
            "because reading them can run code"
        )
    model = language.load(directory)
    # The snapshot directory is named by its commit.
    model.notes["base"] = {"huggingface": repository, "commit": directory.name}
    return model


def from_declaration(spec: Mapping[str, Any], context: Context) -> LanguageModel:
    """A model declared in `configs/models/`; its raw files are fetched and checked if need be."""
    # By name, so that the key of a base does not hang on the code that downloads: the checksums in
    # the declaration decide the bytes, and an edit of a downloader must not remake every model.
    declaration = importlib.import_module("methods.models.params").ModelDeclaration.model_validate(
        {key: value for key, value in spec.items() if key != "name"}
    )
    sources = importlib.import_module("methods.data.sources")
    name = spec.get("name", declaration.title)
    files: dict[str, Path] = {}
    while missing := [file for file in declaration.files if file not in files]:
        # A source may have one part of a model only.
        able = [s for s in declaration.sources if missing[0] in s.files]
        files |= sources.obtain(name, declaration.files, able)
    files = {file: files[file] for file in declaration.files}
    with tempfile.TemporaryDirectory(prefix="base-") as scratch:
        model = assemble(declaration.layout, files, Path(scratch))
    check_config(name, declaration.config, model.model.config.to_dict())
    model.notes["base"] = {"name": name, "title": declaration.title, "licence": declaration.licence}
    if declaration.caveat:
        model.notes["caveat"] = declaration.caveat
    return model


def assemble(layout: str, files: Mapping[str, Path], scratch: Path) -> LanguageModel:
    """The model made of raw files `{name: path}`; `scratch` is an empty directory."""
    if layout == "gguf":
        whole = next(iter(files.values()))
        if len(files) > 1 or whole.suffix != ".gguf":
            whole = scratch / "model.gguf"
            with whole.open("wb") as joined:
                for part in files.values():
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, joined)
        return gguf.read(whole)
    for name, path in files.items():
        (scratch / name).symlink_to(path.resolve())
    return language.load(scratch)


def check_config(name: str, declared: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise RetrofitError where the model is not what its declaration says."""
    for key, value in declared.items():
        if found.get(key) != value:
            raise RetrofitError(
                f"model {name}: its configuration says {key} = {found.get(key)!r}, "
                f"the declaration {value!r}"
            )

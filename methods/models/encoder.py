"""A text encoder, or an encoder with a decoder (T5), as a base model and as a run's artifact.

Causal language models stand in `language`. What an encoder has besides: sentences and pairs are tokenised once
for a whole split, batches are padded to their longest text only, and a sentence's features are the mean of its
tokens' or those of the first token.
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from methods.study.errors import RetrofitError, choices

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from methods.run.context import Context
    from methods.run.metrics import Metric

KINDS = ("encoder", "seq2seq")
EXTRA = "retrofit.json"
WANTED = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Of a hub repository: weights that cannot run code, configuration, tokenizer. No code, no pickles."""
LOADING_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def _checks() -> Any:
    """The checks that causal models share. By name: they only refuse, so no key hangs on what they import."""
    return importlib.import_module("methods.models.language")


@dataclass
class EncoderModel:
    """A model with its tokenizer.

    kind: "encoder" (features of tokens come out) or "seq2seq" (an encoder with a decoder and a language head).
    model: in evaluation mode, float32, no parameter asking for gradients.
    """

    loader: ClassVar[str] = "methods.models.encoder:load"

    kind: Literal["encoder", "seq2seq"]
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    notes: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Metric] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write a directory that `transformers` loads (AutoModel or AutoModelForSeq2SeqLM)."""
        directory = Path(directory)
        with _checks().without_progress_bars():
            self.model.save_pretrained(directory)
        for path in directory.glob("*.safetensors"):
            path.chmod(0o644)  # safetensors makes files that only their owner can read
        self.tokenizer.save_pretrained(directory)
        extra = {"kind": self.kind, "notes": self.notes}
        (directory / EXTRA).write_text(json.dumps(extra, indent=1, sort_keys=True) + "\n", "utf-8")


def base(spec: Mapping[str, Any], context: Context) -> EncoderModel:
    """The base that a study names with a `kind`: from the hub, a directory, or a declaration.

    Raises RetrofitError: nothing there, no source reachable, damaged or pickled weights, an architecture of
    another kind, another configuration than declared.
    """
    kind = spec["kind"]
    if "huggingface" in spec:
        return from_hub(spec["huggingface"], spec.get("revision", "main"), kind)
    if "path" in spec:
        return read(Path(spec["path"]), kind)
    return from_declaration(spec, kind)


def from_hub(repository: str, revision: str, kind: str) -> EncoderModel:
    """A model of the Hugging Face hub; the commit that `revision` stands for is kept in the notes."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=list(WANTED))
    except HFValidationError:
        raise RetrofitError(
            f"'{repository}' is no hub repository (organisation/name); "
            "a directory of this machine is given as {path: …}"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RetrofitError(
            f"{repository} at {revision} cannot be had from the hub: {reason}"
        ) from None
    model = read(Path(found), kind)
    # The snapshot directory is named by its commit.
    model.notes["base"] = {"huggingface": repository, "commit": Path(found).name}
    return model


def from_declaration(spec: Mapping[str, Any], kind: str) -> EncoderModel:
    """A model declared in `configs/models/`; its raw files are fetched and checked if need be."""
    # By name, so that the key of a base does not hang on the code that downloads.
    declaration = importlib.import_module("methods.models.params").ModelDeclaration.model_validate(
        {key: value for key, value in spec.items() if key != "name"}
    )
    sources = importlib.import_module("methods.data.sources")
    name = spec.get("name", declaration.title)
    files = sources.obtain(name, declaration.files, declaration.sources)
    with tempfile.TemporaryDirectory(prefix="base-") as scratch:
        for file, path in files.items():
            (Path(scratch) / file).symlink_to(path.resolve())
        model = read(Path(scratch), kind)
    imports = importlib.import_module("methods.models.imports")
    imports.check_config(name, declaration.config, model.model.config.to_dict())
    model.notes["base"] = {"name": name, "title": declaration.title, "licence": declaration.licence}
    if declaration.caveat:
        model.notes["caveat"] = declaration.caveat
    return model


def declared(name: str, configs: Path = Path("configs/models")) -> EncoderModel:
    """A model of `configs/models/` by name, for use outside a study."""
    strict_yaml = importlib.import_module("methods.study.strict_yaml")
    known = {path.stem: path for path in configs.glob("*.yaml")}
    if name not in known:
        raise RetrofitError(f"there is no model '{name}'; {choices(name, known)}")
    spec = strict_yaml.load(known[name]).value
    if spec.get("kind") not in KINDS:
        raise RetrofitError(f"'{name}' is a causal or vision model, which `methods.models` loads")
    return from_declaration({"name": name, **spec}, spec["kind"])


def load(directory: Path) -> EncoderModel:
    """Read what `EncoderModel.save` wrote."""
    extra = json.loads((Path(directory) / EXTRA).read_text("utf-8"))
    model = read(directory, extra["kind"])
    model.notes = extra["notes"]
    return model


def read(directory: Path, kind: str) -> EncoderModel:
    """A model directory of this machine. Raises RetrofitError where transformers would guess or go on."""
    from transformers import AutoConfig, AutoTokenizer

    directory = Path(directory)
    if kind not in KINDS:
        raise RetrofitError(f"there is no kind '{kind}' of model; {choices(kind, KINDS)}")
    _checks().check_directory(directory)
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        raise RetrofitError(f"{directory}: config.json describes no known model: {error}") from None
    classes = _classes(kind)
    if type(config) not in classes:
        raise RetrofitError(f"{directory}: '{config.model_type}' is no {kind} model")
    try:
        with _checks().without_progress_bars():
            model, report = classes[type(config)].from_pretrained(
                directory,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except SafetensorError as error:
        raise RetrofitError(f"the weights in {directory} are damaged: {error}") from None
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise RetrofitError(f"{directory} does not load as a {kind} model: {error}") from None
    for problem in LOADING_PROBLEMS:
        found = sorted(map(str, report.get(problem) or []))
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise RetrofitError(
                f"{directory}: {problem.replace('_', ' ')}: {', '.join(found[:3])}{more}"
            )
    return EncoderModel(kind, model.eval().requires_grad_(False), tokenizer)


def _classes(kind: str) -> Any:
    """transformers' mapping from configurations to model classes."""
    import transformers

    if kind == "encoder":
        return transformers.MODEL_MAPPING
    return transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING


@dataclass(frozen=True)
class Tokens:
    """A split, tokenised once. `ids`, `types`: int32 [n, longest], padded at the end; `lengths`: int64 [n]."""

    ids: Tensor
    types: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: Tensor, length: int | None = None) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask`, `token_type_ids`: int64 [len(rows), longest of these].

        length: pad to this many instead, where the shape must not change from batch to batch.
        """
        lengths = self.lengths[rows]
        width = int(lengths.max()) if length is None else length
        short = width - self.ids.shape[1]
        ids, types = (
            nn.functional.pad(x[rows], (0, max(short, 0))) for x in (self.ids, self.types)
        )
        return {
            "input_ids": ids[:, :width].long(),
            "attention_mask": (torch.arange(width) < lengths[:, None]).long(),
            "token_type_ids": types[:, :width].long(),
        }


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    length: int,
    pairs: Sequence[str] | None = None,
) -> Tokens:
    """Every text (with its pair) cut to `length` tokens, special tokens included; the longer of a pair is cut first.

    Raises RetrofitError for a length that leaves no room for a text, or more than the tokenizer's model takes.
    """
    special = tokenizer.num_special_tokens_to_add(pairs is not None)
    if length <= special:
        raise RetrofitError(f"length {length} leaves no room beside {special} special tokens")
    if length > tokenizer.model_max_length:
        raise RetrofitError(f"length {length} exceeds the context of {tokenizer.model_max_length}")
    found = tokenizer(
        list(documents),
        list(pairs) if pairs is not None else None,
        truncation=True,
        max_length=length,
        return_token_type_ids=True,
    )
    lengths = torch.tensor([len(row) for row in found["input_ids"]])
    longest = int(lengths.max())
    filling = tokenizer.pad_token_id or 0
    ids = torch.full((len(lengths), longest), filling, dtype=torch.int32)
    types = torch.zeros((len(lengths), longest), dtype=torch.int32)
    for row, (these, kinds) in enumerate(
        zip(found["input_ids"], found["token_type_ids"], strict=True)
    ):
        ids[row, : len(these)] = torch.tensor(these, dtype=torch.int32)
        types[row, : len(these)] = torch.tensor(kinds, dtype=torch.int32)
    return Tokens(ids, types, lengths)


def mean_of_tokens(features: Tensor, mask: Tensor) -> Tensor:
    """Mean of the features [b, s, d] of the tokens that `mask` [b, s] keeps: [b, d]."""
    weights = mask.to(features.dtype)[..., None]
    return (features * weights).sum(1) / weights.sum(1).clamp_min(1)

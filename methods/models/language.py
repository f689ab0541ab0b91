"""A causal language model as a run's artifact: a directory that `transformers` loads.

Dense models are plain safetensors directories. Where a method has quantised layers, their integer
codes are stored instead of the dense weights, as a compressed-tensors checkpoint: small on disk,
loadable by `AutoModelForCausalLM.from_pretrained(directory)`, and read back here bit for bit.
What transformers has no place for (the exact description of packed layers, a method's notes) stands
in `retrofit.json` beside it.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from methods.export import compressed_tensors
from methods.export.packed import PackedWeight
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from methods.run.metrics import Metric

EXTRA = "retrofit.json"


@dataclass
class LanguageModel:
    """A model with its tokenizer, and what is known about its quantised layers.

    model: in evaluation mode. Its weights are always dense tensors; those of the layers in
    `quantized` equal `PackedWeight.dequantize()` cast to the model's dtype.
    quantized: `{dotted name of a linear layer: PackedWeight}`.
    notes: JSON-able facts that a method wants to travel with the model.
    registers: modules of this package to import before transformers can build the model (for
    architectures of our own, which register themselves with its Auto classes).
    """

    loader: ClassVar[str] = "methods.models.language:load"

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None = None
    quantized: dict[str, PackedWeight] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    registers: tuple[str, ...] = ()
    metrics: dict[str, Metric] = field(default_factory=dict)

    def save(self, directory: Path) -> None:
        """Write the model into `directory` (created if need be).

        Raises RetrofitError when a packed layer is not a linear layer of the model or its dense
        weight is not what the packed form says: such an artifact would measure one model and
        deploy another.
        """
        directory = Path(directory)
        state = self.model.state_dict()
        description: dict[str, dict] = {}
        if self.quantized:
            linears = {n for n, m in self.model.named_modules() if isinstance(m, nn.Linear)}
            compressed_tensors.check_bits(self.quantized)
            scheme = compressed_tensors.container(self.quantized)
            for name, packed in self.quantized.items():
                self._check(name, packed, linears)
                del state[f"{name}.weight"]
                state.update(compressed_tensors.tensors(name, packed, *scheme))
            description = compressed_tensors.describe(self.quantized)
        with without_progress_bars():
            self.model.save_pretrained(directory, state_dict=state)
        for path in directory.glob("*.safetensors"):
            path.chmod(0o644)  # safetensors makes files that only their owner can read
        if self.quantized:
            section = compressed_tensors.quantization_config(
                self.quantized, sorted(linears - set(self.quantized))
            )
            _edit_json(directory / "config.json", quantization_config=section)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(directory)
            # How this process happened to load it is no property of the tokenizer.
            _edit_json(directory / "tokenizer_config.json", is_local=None, local_files_only=None)
        extra = {"notes": self.notes, "registers": list(self.registers), "packed": description}
        (directory / EXTRA).write_text(json.dumps(extra, indent=1, sort_keys=True) + "\n", "utf-8")

    def _check(self, name: str, packed: PackedWeight, linears: set[str]) -> None:
        if name not in linears:
            raise RetrofitError(f"packed layer {name} is no linear layer of the model")
        weight = self.model.get_submodule(name).weight
        embedding = self.model.get_input_embeddings()
        if embedding is not None and weight is embedding.weight:
            raise RetrofitError(f"packed layer {name} shares its weight with the embedding")
        if tuple(weight.shape) != packed.shape:
            raise RetrofitError(
                f"packed layer {name} is {packed.shape}, the model's is {tuple(weight.shape)}"
            )
        if not torch.equal(weight.detach().cpu(), packed.dequantize().to(weight.dtype).cpu()):
            raise RetrofitError(f"the dense weight of {name} differs from its packed form")


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """transformers draws a bar per file read or written; a run has one progress display, its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = json.loads(path.read_text("utf-8")) | changes
    content = {key: value for key, value in content.items() if changes.get(key, 0) is not None}
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def check_directory(directory: Path) -> dict[str, Any]:
    """The `config.json` of a model directory that can be loaded; RetrofitError says what is wrong."""
    directory = Path(directory)
    if not directory.is_dir():
        raise RetrofitError(f"directory {directory} does not exist")
    config = directory / "config.json"
    if not config.is_file():
        raise RetrofitError(f"{directory} is not a model directory: it has no config.json")
    if not any(directory.glob("*.safetensors")):
        pickled = [
            p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt")
        ]
        if pickled:
            raise RetrofitError(
                f"{directory} holds pickled weights ({pickled[0]}), which can run code when read and "
                "are not loaded; where you trust their source, convert them once with "
                "transformers: AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)"
            )
        raise RetrofitError(f"{directory} has no weights: no file ends in .safetensors")
    try:
        return json.loads(config.read_text("utf-8"))
    except ValueError as error:
        raise RetrofitError(f"{config} is not valid JSON: {error}") from None


def load(directory: Path) -> LanguageModel:
    """Read what `LanguageModel.save` wrote, or any dense or pack-quantized checkpoint directory.

    The model comes in the dtype in which it is stored, on the CPU. Raises RetrofitError for a
    missing or damaged directory, tensors that are missing or left over (a silent random
    initialisation otherwise), or a quantisation format that cannot be unpacked.
    """
    directory = Path(directory)
    config = check_directory(directory)
    extra = (
        json.loads((directory / EXTRA).read_text("utf-8")) if (directory / EXTRA).exists() else {}
    )
    for module in extra.get("registers", []):
        if not module.startswith("methods."):
            raise RetrofitError(f"{directory / EXTRA}: refuses to import {module}")
        importlib.import_module(module)
    section = config.get("quantization_config")
    packed: dict[str, PackedWeight] = {}
    if section is None:
        model = from_pretrained(directory)
    else:
        method, layout = section.get("quant_method"), section.get("format")
        if (method, layout) != ("compressed-tensors", "pack-quantized"):
            raise RetrofitError(
                f"{directory} is quantised as {method or 'unknown'} {layout or ''}; start from the "
                "dense model, or from a compressed-tensors pack-quantized checkpoint"
            )
        packed, state = compressed_tensors.read(_tensors(directory), extra.get("packed"))
        state |= {f"{name}.weight": weight.dequantize() for name, weight in packed.items()}
        model = from_pretrained(directory, state)
    tokenizer = None
    if (directory / "tokenizer_config.json").exists():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    registers = tuple(extra.get("registers", ()))
    return LanguageModel(model, tokenizer, packed, extra.get("notes", {}), registers)


def _tensors(directory: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                state |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise RetrofitError(f"{path} is damaged: {error}") from None
    return state


def from_pretrained(
    directory: Path, state: dict[str, torch.Tensor] | None = None
) -> PreTrainedModel:
    """The dense model of `directory` with its own weights, or with those of `state`."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        raise RetrofitError(f"{directory}: config.json describes no known model: {error}") from None
    if state is not None and hasattr(config, "quantization_config"):
        del config.quantization_config
    return build(config, state, str(directory))


def build(
    config: PretrainedConfig, state: dict[str, torch.Tensor] | None, origin: str
) -> PreTrainedModel:
    """A causal language model with the weights `state`, or with those in the directory `origin`.

    Raises RetrofitError when a weight is missing, left over, misshapen or unreadable, where
    transformers would go on with random numbers.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise RetrofitError(f"{origin}: '{config.model_type}' is no causal language model")
    try:
        with without_progress_bars():
            model, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
                origin if state is None else None,
                config=config,
                state_dict=state,
                dtype=config.dtype or "auto",
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise RetrofitError(f"the weights in {origin} are damaged: {error}") from None
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise RetrofitError(f"{origin} does not load as a causal language model: {error}") from None
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        found = sorted(map(str, report.get(problem) or []))
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise RetrofitError(
                f"{origin}: {problem.replace('_', ' ')}: {', '.join(found[:3])}{more}"
            )
    return model.eval()

"""Export a model for other tools, and prove that what was written is the model.

An export is written aside, loaded back, compared on logits with the model in memory, and only then
put in place: a directory that exists has passed. Peers' checkpoints that save without complaint and
load as noise are why.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from methods.export import awq_gemm, gptq
from methods.export.packed import PackedWeight
from methods.models import language
from methods.models.language import LanguageModel
from methods.study.errors import RetrofitError, choices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROBE = (2, 48)
"""Rows and tokens of the text on which logits are compared."""


HALF = (
    "; its dense tensors are float16, which may be too coarse for this model (weights of norms into "
    "which scales were folded); compressed-tensors keeps float32"
)
GPTQMODEL_NEEDS = ("device-smi", "pypcre", "tokenicer", "logbar", "defuser", "dill", "datasets")
GPTQMODEL_NEEDS += ("protobuf", "pillow", "ninja", "torchao")
"""What gptqmodel 7.7.0 imports; installed by name because its own list asks for another torch."""


@dataclass(frozen=True)
class Format:
    """A way to write a model.

    tolerance: largest relative L2 distance of the logits from the model in memory.
    packed: whether it holds integer weights (and so needs a quantised model).
    half: whether its dense tensors are float16.
    """

    write: Callable[[LanguageModel, Path], None]
    readers: dict[str, Callable[[Path], PreTrainedModel]]
    tolerance: float
    packed: bool
    half: bool = False
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """{reader: packages that it imports}; a reader whose packages are missing is left out, and said."""


@dataclass
class Check:
    """How far the logits of an exported directory are from the model's."""

    format: str
    directory: Path
    distances: dict[str, float]
    """{reader: relative L2 distance of the logits}"""
    tolerance: float
    skipped: dict[str, str] = field(default_factory=dict)
    """{reader: what it needs that is not installed}"""

    @property
    def passed(self) -> bool:
        """Whether every reader that ran was within the tolerance."""
        return bool(self.distances) and all(d <= self.tolerance for d in self.distances.values())

    def __str__(self) -> str:
        parts = [f"{reader}: {value:.1e}" for reader, value in self.distances.items()]
        parts += [f"{reader}: not checked, needs {what}" for reader, what in self.skipped.items()]
        return f"{self.directory}: {self.format}, logits within {self.tolerance:.0e}; {', '.join(parts)}"


def export(model: LanguageModel, directory: Path, format: str) -> Check:
    """Write `model` to the new `directory` in a format of `FORMATS` and prove it by loading it back.

    Raises RetrofitError: unknown format, directory exists, layers that the format cannot hold, a
    reader that fails or differs; then nothing is left behind.
    """
    chosen = find(format)
    directory = Path(directory)
    if directory.exists():
        raise RetrofitError(f"{directory} exists already; choose another directory or remove it")
    if chosen.packed and not model.quantized:
        raise RetrofitError(
            f"{format} holds quantised weights and this model has none; its format is dense"
        )
    aside = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        chosen.write(model, aside)
        found = check(aside, format, model.model)
        found.directory = directory
        if not found.passed:
            raise RetrofitError(
                f"the export does not load back as the model: {found}"
                + (HALF if chosen.half else "")
            )
        aside.rename(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return found


@torch.no_grad()
def check(directory: Path, format: str, reference: PreTrainedModel) -> Check:
    """Load `directory` with every reader of the format and compare logits with `reference`'s."""
    chosen = find(format)
    tokens = probe(reference)
    wanted = reference.eval()(input_ids=tokens, use_cache=False).logits.double()
    distances: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for name, read in chosen.readers.items():
        missing = [p for p in chosen.needs.get(name, ()) if importlib.util.find_spec(p) is None]
        if missing:
            skipped[name] = ", ".join(missing)
            continue
        try:
            loaded = read(Path(directory)).to(reference.device).eval()
            logits = loaded(input_ids=tokens, use_cache=False).logits.double()
        except RetrofitError:
            raise
        except Exception as error:
            # Whatever another package stumbles over: the format has no proof, and says by whom.
            lines = str(error).strip().splitlines() or [""]
            raise RetrofitError(
                f"{format} does not load by {name}: {type(error).__name__}: {lines[0]}"
            ) from error
        distances[name] = float((logits - wanted).norm() / wanted.norm())
    return Check(format, Path(directory), distances, chosen.tolerance, skipped)


def probe(model: PreTrainedModel) -> torch.Tensor:
    """Fixed random token ids `[2, up to 48]` that the model accepts."""
    limit = getattr(model.config, "max_position_embeddings", None) or PROBE[1]
    generator = torch.Generator().manual_seed(0)
    shape = (PROBE[0], min(PROBE[1], limit))
    return torch.randint(model.config.vocab_size, shape, generator=generator).to(model.device)


def matrix(model: LanguageModel, scratch: Path) -> list[list[str]]:
    """Every format tried on one model: rows of format, reader, distance of the logits, megabytes.

    scratch: an empty directory for the exports. What a format cannot hold, and what a reader lacks, is
    said in the place of the distance.
    """
    rows = []
    for name in FORMATS:
        directory = Path(scratch) / name
        try:
            found = export(model, directory, name)
        except RetrofitError as error:
            rows.append([name, "–", str(error), ""])
            continue
        size = f"{sum(f.stat().st_size for f in directory.glob('*.safetensors')) / 1e6:.1f}"
        rows += [[name, reader, f"{value:.1e}", size] for reader, value in found.distances.items()]
        for reader, what in found.skipped.items():
            rows.append([name, reader, f"not checked: needs {what} ({install(what)})", size])
    return rows


def install(packages: str) -> str:
    """The command that installs optional packages, given as `a, b`."""
    names = packages.split(", ")
    if "gptqmodel" not in names:
        return "pip install " + " ".join(names)
    # gptqmodel declares a newer torch than it needs, which pip cannot resolve beside ours.
    needs = dict.fromkeys([*names, *GPTQMODEL_NEEDS])
    return "pip install --no-deps " + " ".join(needs)


def find(format: str) -> Format:
    """The format of that name; RetrofitError with the nearest one."""
    if format not in FORMATS:
        raise RetrofitError(f"there is no export format '{format}'; {choices(format, FORMATS)}")
    return FORMATS[format]


def _write_dense(model: LanguageModel, directory: Path) -> None:
    LanguageModel(model.model, model.tokenizer, registers=model.registers).save(directory)


def _ours(directory: Path) -> PreTrainedModel:
    return language.load(directory).model


def _transformers(directory: Path) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    with language.without_progress_bars():
        # float32 whatever the directory asks for: the comparison is of weights, not of rounding.
        return AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, local_files_only=True
        )


def _unpacked_awq(directory: Path) -> PreTrainedModel:
    return _dense(directory, *awq_gemm.read(directory))


def _unpacked_gptq(directory: Path) -> PreTrainedModel:
    return _dense(directory, *gptq.read(directory))


def _dense(
    directory: Path, packed: dict[str, PackedWeight], state: dict[str, torch.Tensor]
) -> PreTrainedModel:
    from transformers import AutoConfig

    state |= {f"{name}.weight": weight.dequantize() for name, weight in packed.items()}
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
    del config.quantization_config
    config.dtype = torch.float32
    return language.build(config, state, str(directory))


FORMATS: dict[str, Format] = {
    "dense": Format(
        _write_dense, {"ours": _ours, "transformers": _transformers}, tolerance=1e-6, packed=False
    ),
    "compressed-tensors": Format(
        lambda model, directory: model.save(directory),
        {"ours": _ours, "transformers": _transformers},
        tolerance=1e-6,
        packed=True,
        needs={"transformers": ("compressed_tensors",)},
    ),
    "awq-gemm": Format(
        awq_gemm.write,
        {"our unpacker": _unpacked_awq, "transformers": _transformers},
        tolerance=5e-3,
        packed=True,
        half=True,
        needs={"transformers": ("gptqmodel", "accelerate")},
    ),
    **{
        f"gptq-v{version}": Format(
            partial(gptq.write, version=version),
            {"our unpacker": _unpacked_gptq, "transformers": _transformers},
            tolerance=5e-3,
            packed=True,
            half=True,
            needs={"transformers": ("gptqmodel", "optimum")},
        )
        for version in gptq.VERSIONS
    },
}

__all__ = ["FORMATS", "Check", "Format", "PackedWeight", "check", "export", "find"]

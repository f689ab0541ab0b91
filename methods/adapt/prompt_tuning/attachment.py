"""What each method adds to the frozen model, how that is saved, and how it is put back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from methods.adapt.prompt_tuning import decomposition
from methods.adapt.prompt_tuning.params import (
    Decomposed,
    PromptTuning,
    TextFineTune,
    TextLora,
    TextTuning,
)
from methods.adapt.prompt_tuning.prompts import DecomposedPrompt, Prompted, initial_prompt
from methods.study.errors import RetrofitError, choices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TASK_TYPES = {"encoder": "FEATURE_EXTRACTION", "causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}
"""peft's names."""


@dataclass
class Attached:
    """backbone: what is called; model: the transformers model in it. groups: parameters with their learning rates.
    counts: trained numbers by part.
    """

    backbone: nn.Module
    model: PreTrainedModel
    groups: list[dict[str, Any]]
    counts: dict[str, int]
    prefix: int = 0


def attach(
    model: PreTrainedModel,
    kind: str,
    params: TextTuning,
    context_ids: list[int],
    generator: torch.Generator,
) -> Attached:
    """The model with a method's parameters, ready to be trained. `release` undoes it.

    context_ids: tokens of the prompt's initial text. Raises RetrofitError for a layer to adapt that is not there.
    """
    match params:
        case PromptTuning():
            return _peft_prompt(model, kind, params, context_ids, generator)
        case Decomposed():
            return _decomposed(model, params, context_ids, generator)
        case TextLora():
            return _lora(model, kind, params, generator)
        case TextFineTune():
            # In place of a copy the base itself would be spoilt for the next task.
            whole = copy.deepcopy(model).requires_grad_(True)
            return _made(whole, whole, {"all": list(whole.parameters())}, params.learning_rate)
    return Attached(model, model, [], {"all": 0})


def release(attached: Attached) -> None:
    """Take the method's layers out of the base model again."""
    if hasattr(attached.backbone, "unload"):
        attached.backbone.unload()


def _made(
    backbone: nn.Module,
    model: PreTrainedModel,
    parts: Mapping[str, list[nn.Parameter]],
    rate: float,
    prefix: int = 0,
) -> Attached:
    counts = {name: sum(p.numel() for p in found) for name, found in parts.items()}
    groups = [{"params": found, "lr": rate} for found in parts.values() if found]
    return Attached(backbone, model, groups, counts, prefix)


def _peft_prompt(
    model: PreTrainedModel,
    kind: str,
    params: PromptTuning,
    ids: list[int],
    generator: torch.Generator,
) -> Attached:
    from peft import PromptTuningConfig, get_peft_model

    start = initial_prompt(
        model.get_input_embeddings(), params.tokens, params.initial, ids, generator
    )
    # Of two transformer submodules, peft's default for a model with a decoder, both would get a prompt.
    config = PromptTuningConfig(
        task_type=TASK_TYPES[kind], num_virtual_tokens=params.tokens, num_transformer_submodules=1
    )
    with torch.random.fork_rng(devices=[]):
        backbone = get_peft_model(model, config)
    embedding = backbone.prompt_encoder["default"].embedding
    with torch.no_grad():
        embedding.weight.copy_(start)
    parts = {"decomposition": [embedding.weight]}
    return _made(backbone, model, parts, params.learning_rate, params.tokens)


def _decomposed(
    model: PreTrainedModel, params: Decomposed, ids: list[int], generator: torch.Generator
) -> Attached:
    embedding = model.get_input_embeddings()
    rank = params.rank
    if rank is None:
        width = embedding.weight.shape[1]
        rank = decomposition.affordable_rank(params.budget, params.tokens, params.length, width)
    start = initial_prompt(embedding, params.tokens, params.initial, ids, generator)
    prompt = DecomposedPrompt(start, params, rank, generator)
    rest = [p for name, p in prompt.named_parameters() if name != "prompt_embeddings"]
    groups = [{"params": [prompt.prompt_embeddings], "lr": params.learning_rate}]
    groups += [{"params": rest, "lr": params.low_rank_learning_rate}] if rest else []
    return Attached(Prompted(model, prompt), model, groups, prompt.counts(), params.tokens)


def _lora(
    model: PreTrainedModel, kind: str, params: TextLora, generator: torch.Generator
) -> Attached:
    from peft import LoraConfig, get_peft_model

    linears = {
        name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear)
    }
    for target in params.targets:
        if target not in linears:
            raise RetrofitError(
                f"text_lora: the model has no linear layer '{target}'; {choices(target, linears)}"
            )
    config = LoraConfig(
        task_type=TASK_TYPES[kind],
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=0.0,
        target_modules=params.targets,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        backbone = get_peft_model(model, config)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    return _made(backbone, model, {"all": trained}, params.learning_rate)


def state_of(attached: Attached, params: TextTuning) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(adapter_config.json, adapter_model.safetensors): peft's own where peft has the method."""
    match params:
        case PromptTuning() | TextLora():
            from peft import get_peft_model_state_dict

            config = attached.backbone.peft_config["default"].to_dict()
            return _plain(config), get_peft_model_state_dict(attached.backbone)
        case Decomposed():
            prompt = attached.backbone.prompt
            config = {
                "peft_type": params.method.upper(),
                "num_virtual_tokens": params.tokens,
                "num_transformer_submodules": 1,
                "token_dim": prompt.prompt_embeddings.shape[1],
                "r": prompt.rank,
            }
            return config, dict(prompt.state_dict())
        case TextFineTune(keep=True):
            return {"peft_type": None}, dict(attached.backbone.state_dict())
    return {"peft_type": None}, {}


def restore(attached: Attached, params: TextTuning, tensors: dict[str, Tensor]) -> None:
    """Put saved tensors into what `attach` made anew. RetrofitError where they were not kept."""
    match params:
        case PromptTuning() | TextLora():
            from peft import set_peft_model_state_dict

            set_peft_model_state_dict(attached.backbone, tensors)
        case Decomposed():
            attached.backbone.prompt.load_state_dict(tensors)
        case TextFineTune():
            if not tensors:
                raise RetrofitError(
                    "text_finetune: the tuned weights were not kept (keep: false), only their scores"
                )
            attached.backbone.load_state_dict(tensors)


def _plain(value: Any) -> Any:
    """What JSON can hold, in a fixed order."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)

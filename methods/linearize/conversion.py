"""From a Llama-family model to its linearised twin, with the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from methods.linearize.bases import BIASES, check_base
from methods.linearize.configuration import LinearizedConfig
from methods.linearize.modeling import LinearizedForCausalLM, added_parameters
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def configuration(base: PretrainedConfig, **attention: Any) -> LinearizedConfig:
    """The linearised model's configuration: all sizes of the base, and `attention`'s fields."""
    described = base.to_dict()
    check_base(described)
    kind = described["model_type"]
    qkv_bias, output_bias = BIASES[kind]
    if described.get("attention_bias"):
        qkv_bias = output_bias = True
    taken = {
        key: described[key]
        for key in LinearizedConfig().to_dict()
        if key in described and key not in ("model_type", "architectures", "layer_types")
    }
    taken |= {"qkv_bias": qkv_bias, "output_bias": output_bias, "linearized_from": kind}
    return LinearizedConfig(**(taken | attention))


@torch.no_grad()
def linearized(base: PreTrainedModel, seed: int, **attention: Any) -> LinearizedForCausalLM:
    """A linearised model that holds the very tensors of `base`, in evaluation mode.

    attention: fields of `LinearizedConfig`. seed: of what is added at random. Raises RetrofitError
    for a base that cannot be linearised, and for tensors that are missing or left over, by name.
    """
    config = configuration(base.config, **attention)
    config.dtype = base.dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LinearizedForCausalLM(config)
    state = base.state_dict()
    expected, added = set(model.state_dict()), set()
    for index, layer in enumerate(model.model.layers):
        names = added_parameters(layer.self_attn)
        added |= {f"model.layers.{index}.self_attn.{name}" for name in names}
    problems = {
        "lacks": sorted(expected - added - set(state)),
        "has, and the linearised model does not,": sorted(set(state) - expected),
    }
    for problem, names in problems.items():
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise RetrofitError(f"the base {problem} {', '.join(names[:5])}{more}")
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    model.generation_config = base.generation_config
    return model.eval()

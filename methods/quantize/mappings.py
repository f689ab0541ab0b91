"""Which layers share a scale, as data: one table per architecture.

Scaling the input channels of some layers up and dividing the output of the module before them by
the same numbers leaves a network unchanged. A `ScaleGroup` names such a place inside a decoder
block. `resolve` turns the table of a model's architecture into modules and checks shapes;
`tests/quantize/test_mappings.py` folds random scales at every place of every table and compares
outputs, and `check_unchanged` does so for the model at hand whenever scales are folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from methods.study.errors import RetrofitError, choices


@dataclass(frozen=True)
class ScaleGroup:
    """A place where a scale can be folded; names are relative to the decoder block.

    previous: module whose output is divided. layers: linear layers that read it (and nothing else
    does). inspect: module whose output tells what rounding costs; None = the one layer itself.
    kind: what `previous` is: a norm with weight w, a norm that multiplies by 1 + w, a linear layer,
    or the value projection (whose heads may be shared by several heads of the layer after it).
    activation: name of the module between a linear `previous` and `layers`, which must commute with
    positive scales; None where there is none.
    mixes_tokens: whether `inspect` needs whole sequences; otherwise any tokens will do.
    """

    previous: str
    layers: tuple[str, ...]
    inspect: str | None
    kind: Literal["norm", "norm_plus_one", "linear", "value"]
    activation: str | None = None
    mixes_tokens: bool = False


ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
VALUE = ScaleGroup("self_attn.v_proj", ("self_attn.o_proj",), None, "value")
DOWN = ScaleGroup("mlp.up_proj", ("mlp.down_proj",), None, "linear")
GATED = ("mlp.gate_proj", "mlp.up_proj")

LLAMA = (
    ScaleGroup("input_layernorm", ATTENTION, "self_attn", "norm", mixes_tokens=True),
    VALUE,
    ScaleGroup("post_attention_layernorm", GATED, "mlp", "norm"),
    DOWN,
)
GEMMA3 = (
    ScaleGroup("input_layernorm", ATTENTION, "self_attn", "norm_plus_one", mixes_tokens=True),
    VALUE,
    ScaleGroup("pre_feedforward_layernorm", GATED, "mlp", "norm_plus_one"),
    DOWN,
)
OPT = (
    ScaleGroup("self_attn_layer_norm", ATTENTION, "self_attn", "norm", mixes_tokens=True),
    ScaleGroup("self_attn.v_proj", ("self_attn.out_proj",), None, "value"),
    ScaleGroup("final_layer_norm", ("fc1",), None, "norm"),
    ScaleGroup("fc1", ("fc2",), None, "linear", activation="activation_fn"),
)
TABLE: dict[str, tuple[ScaleGroup, ...]] = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "gemma3_text": GEMMA3,
    "gemma3": GEMMA3,
    "opt": OPT,
}
"""By `model_type` of the configuration."""

COMMUTES_WITH_SCALES = (nn.ReLU, nn.Identity, nn.LeakyReLU)
ROLES = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "out_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "fc1": "fc1",
    "fc2": "fc2",
}
"""What a study calls a projection, by the last part of its name."""


def scale_groups(model: nn.Module) -> tuple[ScaleGroup, ...]:
    """The table of a model's architecture.

    An architecture of this package that keeps another's modules names it as `scale_groups_of` in
    its configuration. Raises RetrofitError naming the known architectures.
    """
    config = model.config
    kind = getattr(config, "scale_groups_of", None) or config.model_type
    if kind not in TABLE:
        raise RetrofitError(
            f"AWQ has no table of scale groups for architecture '{kind}'; {choices(kind, TABLE)}"
        )
    if kind == "opt" and not config.do_layer_norm_before:
        raise RetrofitError(
            "this OPT model normalises after its layers (do_layer_norm_before: false), "
            "so no norm can take the scales of the layers that follow"
        )
    return TABLE[kind]


@dataclass
class Place:
    """A `ScaleGroup` of one block, with its modules."""

    group: ScaleGroup
    previous: nn.Module
    layers: dict[str, nn.Linear]
    inspect: nn.Module
    share: tuple[int, int, int] | None = None
    """Value heads, query heads on each, and their size, where value heads are shared."""


def resolve(
    block: nn.Module, groups: tuple[ScaleGroup, ...], config: object, gqa_v_o: str = "skip"
) -> tuple[list[Place], dict[str, str]]:
    """The places of one block, and `{previous -> layers: reason}` for those left out.

    gqa_v_o: "skip" leaves out the value projection when its heads are shared, "exact" keeps it.
    Raises RetrofitError when the block does not have the modules or shapes of its table.
    """
    places: list[Place] = []
    skipped: dict[str, str] = {}
    for group in groups:
        arrow = f"{group.previous} -> {', '.join(group.layers)}"
        try:
            previous = block.get_submodule(group.previous)
            layers = {name: block.get_submodule(name) for name in group.layers}
            inspect = (
                block.get_submodule(group.inspect) if group.inspect else layers[group.layers[0]]
            )
        except AttributeError as error:
            raise RetrofitError(
                f"the scale groups of '{config.model_type}' do not fit {type(block).__name__}: {error}"
            ) from None
        place = Place(group, previous, layers, inspect)
        channels = {layer.in_features for layer in layers.values()}
        width = previous.weight.shape[0]
        if len(channels) != 1:
            raise RetrofitError(f"{arrow}: the layers have different input features {channels}")
        if group.kind == "value" and width != channels.pop():
            if gqa_v_o == "skip":
                skipped[arrow] = "query heads share value heads"
                continue
            place.share = _sharing(config, previous, layers[group.layers[0]], arrow)
        elif group.kind != "value" and width != channels.pop():
            raise RetrofitError(f"{arrow}: {width} outputs do not feed the layers' inputs")
        if group.activation:
            between = block.get_submodule(group.activation)
            if not isinstance(between, COMMUTES_WITH_SCALES):
                skipped[arrow] = f"{type(between).__name__} does not commute with scales"
                continue
        places.append(place)
    return places, skipped


def _sharing(
    config: object, value: nn.Linear, output: nn.Linear, arrow: str
) -> tuple[int, int, int]:
    heads = config.num_attention_heads
    shared = config.num_key_value_heads
    size = output.in_features // heads
    if value.out_features != shared * size or heads % shared:
        raise RetrofitError(
            f"{arrow}: {value.out_features} and {output.in_features} channels are not "
            f"{shared} and {heads} heads of one size"
        )
    return shared, heads // shared, size


def role_of(name: str) -> str | None:
    """What a study calls the layer `name` ("q", "down", …), or None."""
    return ROLES.get(name.rpartition(".")[2])


@torch.no_grad()
def check_unchanged(before: torch.Tensor, after: torch.Tensor, name: str) -> None:
    """Refuse scales whose folding changed the float output of the block `name`.

    before, after: outputs in float32. Raises RetrofitError beyond 1e-3 relative error, far above
    rounding and far below what a wrong mapping does.
    """
    scale = before.norm().clamp(min=1e-12)
    error = ((after - before).norm() / scale).item()
    if not error < 1e-3:
        raise RetrofitError(
            f"folding the scales changed the output of {name} by {error:.1e} (relative): "
            "the table of scale groups does not fit this model"
        )

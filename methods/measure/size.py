"""How much a model holds and weighs: parameters, non-zeros, bytes stored and deployed, bits per weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from methods.export import compressed_tensors
from methods.measure.cost import bytes_of, count_nonzeros, count_parameters
from methods.models.blocks import block_linears, decoder_blocks
from methods.run.metrics import Metric
from methods.study.errors import RetrofitError

if TYPE_CHECKING:
    from methods.export.packed import PackedWeight
    from methods.measure.params import Size
    from methods.run.context import Context


def measure(model: Any, data: dict, params: Size, context: Context) -> dict[str, Metric]:
    """`parameters`, `nonzeros`, `size/stored`, `size/deployed` and, with blocks, `bits_per_weight`.

    stored: bytes of the artifact's tensors, exactly. deployed: the same with dense numbers at
    `dense_bits` and scales at `scale_bits`. bits_per_weight: over the linear layers of the decoder
    blocks, codes, scales and zero points together, as deployed.
    """
    network = network_of(model)
    quantized = getattr(model, "quantized", {})
    smaller = {"higher_is_better": False}
    metrics = {
        "parameters": Metric(count_parameters(network), **smaller),
        "nonzeros": Metric(count_nonzeros(network), **smaller),
        "size/stored": Metric(stored_bytes(network, quantized), unit="B", **smaller),
        "size/deployed": Metric(
            deployed_bits(network, quantized, params.dense_bits, params.scale_bits) / 8,
            unit="B",
            **smaller,
        ),
    }
    try:
        bits = bits_per_weight(network, quantized, params.dense_bits, params.scale_bits)
    except RetrofitError:
        return metrics  # no decoder blocks
    return metrics | {"bits_per_weight": Metric(bits, unit="bit", **smaller)}


def network_of(model: Any) -> nn.Module:
    """The torch module inside a payload (`.model`, `.network` or `.module`), or the module itself."""
    for candidate in (model, *(getattr(model, n, None) for n in ("model", "network", "module"))):
        if isinstance(candidate, nn.Module):
            return candidate
    raise RetrofitError(f"{type(model).__name__} holds no torch module whose size can be measured")


def packed_bits(weight: PackedWeight, scale_bits: int) -> int:
    """Bits of one packed layer: codes, scales, and zero points unless symmetric."""
    zeros = 0 if weight.symmetric else weight.zero.numel() * weight.bits
    return weight.codes.numel() * weight.bits + weight.scale.numel() * scale_bits + zeros


def stored_bytes(network: nn.Module, quantized: Mapping[str, PackedWeight]) -> int:
    """Bytes of all tensors of the artifact that `LanguageModel.save` writes."""
    total = bytes_of(network)
    scheme = compressed_tensors.container(quantized) if quantized else None
    for name, weight in quantized.items():
        total -= network.get_submodule(name).weight.nbytes
        total += compressed_tensors.stored_bytes(weight, *scheme)
    return total


def deployed_bits(
    network: nn.Module, quantized: Mapping[str, PackedWeight], dense_bits: int, scale_bits: int
) -> int:
    """Bits of the parameters when dense numbers have `dense_bits` and layers keep their own width."""
    packed = sum(network.get_submodule(name).weight.numel() for name in quantized)
    dense = (count_parameters(network) - packed) * dense_bits
    return dense + sum(packed_bits(weight, scale_bits) for weight in quantized.values())


def bits_per_weight(
    network: nn.Module, quantized: Mapping[str, PackedWeight], dense_bits: int, scale_bits: int
) -> float:
    """Mean bits of a weight of the blocks' linear layers; RetrofitError where there are no blocks."""
    bits = weights = 0
    for prefix, block in decoder_blocks(network):
        for name, layer in block_linears(block).items():
            packed = quantized.get(f"{prefix}.{name}")
            numbers = layer.weight.numel()
            weights += numbers
            bits += packed_bits(packed, scale_bits) if packed else numbers * dense_bits
    return bits / weights

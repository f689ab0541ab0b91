"""Which group sizes fit which layers: answered before any work, from shapes alone (no torch).

Groups run along a layer's input features, so a group size must divide them. Other tools skip such
layers silently, or fail when the finished model runs; here all of them are named at once.
"""

from __future__ import annotations

from math import gcd

from methods.study.errors import RetrofitError

PER_CHANNEL = -1
SMALLEST = 16
"""Smaller groups fit many widths too, but cost more than a bit per weight in scales."""


def widths_of_config(config: dict) -> dict[str, int]:
    """`{layer: input features}` of a decoder block, read off a model's `config.json`.

    Empty where the configuration does not say (an unknown architecture is not an error yet).
    """
    # Multi-modal configurations keep the language model's part apart.
    config = config.get("text_config", config)
    hidden = config.get("hidden_size")
    inner = config.get("intermediate_size") or config.get("ffn_dim")
    heads = config.get("num_attention_heads")
    if not hidden or not inner or not heads:
        return {}
    depth = config.get("num_hidden_layers", 1)
    attention = heads * (config.get("head_dim") or hidden // heads)
    kinds = {
        "query/key/value projections": (hidden, 3 * depth),
        "attention output projections": (attention, depth),
        "first feed-forward projections": (hidden, (1 if "ffn_dim" in config else 2) * depth),
        "second feed-forward projections": (inner, depth),
    }
    return {f"{count} {kind}": width for kind, (width, count) in kinds.items()}


def check_group_size(widths: dict[str, int], group_size: int) -> None:
    """Refuse a group size that does not divide the input features of every layer.

    widths: `{name of a layer: its input features}`.
    Raises RetrofitError naming the layers and the group sizes that do divide.
    """
    if group_size == PER_CHANNEL:
        return
    bad = {name: width for name, width in widths.items() if width % group_size}
    if not bad:
        return
    names = list(bad)
    shown = ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])}, …, {names[-1]}"
    count = f"{len(names)} of {len(widths)} layers" if len(names) > 1 else "1 layer"
    sizes = "; ".join(
        f"{width}: {', '.join(map(str, divisors(width)))}" for width in sorted(set(bad.values()))
    )
    everywhere = ", ".join(map(str, divisors(gcd(*widths.values())))) or "none"
    raise RetrofitError(
        f"group_size {group_size} does not divide the input features of {count} ({shown}); "
        f"group sizes that divide them ({sizes}); that divide every layer: {everywhere}; "
        "or -1 for one group per output channel"
    )


def divisors(width: int) -> list[int]:
    """Group sizes of at least 16 that divide `width`, the width itself left out."""
    return [size for size in range(SMALLEST, width) if width % size == 0]

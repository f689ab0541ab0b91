"""Round-to-nearest in a few lines, so that these tests do not lean on the quantize family."""

import torch

from methods.export.packed import PackedWeight


def nearest(weight, bits, group_size=-1, symmetric=False):
    """`PackedWeight` of a weight `[out, in]` by min-max round-to-nearest."""
    rows, columns = weight.shape
    grouped = weight.detach().reshape(rows, columns // group_size if group_size > 0 else 1, -1)
    if symmetric:
        scale = (grouped.abs().amax(-1) / max(2 ** (bits - 1) - 1, 1)).clamp(min=1e-8)
        zero = torch.full_like(scale, 2 ** (bits - 1)).int()
    else:
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scale = ((high - low) / (2**bits - 1)).clamp(min=1e-8)
        zero = (-low / scale).round().int()
    codes = ((grouped / scale[..., None]).round() + zero[..., None]).clamp(0, 2**bits - 1)
    codes = codes.to(torch.uint8).reshape(rows, columns)
    return PackedWeight(codes, scale, zero, bits, group_size, symmetric)


def quantize_model(model, schemes):
    """Pack every linear layer but the head, cycling through `schemes`; returns the packed dict."""
    packed = {}
    linears = [
        (n, m)
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and n != "lm_head"
    ]
    for index, (name, layer) in enumerate(linears):
        packed[name] = nearest(layer.weight, *schemes[index % len(schemes)])
        layer.weight.data = packed[name].dequantize()
    return packed

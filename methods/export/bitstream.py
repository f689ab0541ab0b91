"""Unsigned codes of 1 to 8 bits as a dense little-endian stream in 32-bit words.

Element i of a row occupies bits `i*bits .. i*bits+bits-1` of the row's stream, across word borders
where it must; a row is padded with zeros to whole words.  This is the layout of compressed-tensors
"pack-quantized" from 0.20 on (earlier versions padded 3-bit codes to 10 per word).
"""

from __future__ import annotations

import numpy as np
import torch


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes `[rows, columns]`, each below `2**bits`, as int32 `[rows, ceil(columns*bits/32)]`."""
    rows, columns = codes.shape
    values = codes.to(torch.uint8).cpu().numpy()
    stream = np.unpackbits(values[:, :, None], axis=2, count=bits, bitorder="little")
    stream = stream.reshape(rows, columns * bits)
    stream = np.pad(stream, ((0, 0), (0, -columns * bits % 32)))
    words = np.packbits(stream, axis=1, bitorder="little").view("<i4")
    return torch.from_numpy(words.astype(np.int32, copy=False))


def unpack(words: torch.Tensor, bits: int, columns: int) -> torch.Tensor:
    """The uint8 codes `[rows, columns]` that `pack` was given."""
    rows = words.shape[0]
    data = np.ascontiguousarray(words.cpu().numpy().astype("<i4", copy=False)).view(np.uint8)
    stream = np.unpackbits(data, axis=1, count=columns * bits, bitorder="little")
    codes = np.packbits(stream.reshape(rows, columns, bits), axis=2, bitorder="little")
    return torch.from_numpy(codes[:, :, 0].copy())

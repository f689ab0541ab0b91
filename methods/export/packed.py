"""The one in-memory form of a quantised weight, shared by methods, checkpoints and exports.

A method that quantises hands back integer codes with the scales and zero points that read them;
every writer (`methods.export.*`) and the artifact of a language model start from this form, so what
is measured, what is stored and what is exported are the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from methods.study.errors import RetrofitError


@dataclass
class PackedWeight:
    """A weight matrix `[out, in]` on an integer grid: `w = (code - zero) * scale`, per group.

    codes: uint8 (or int32) `[out, in]`, each in `0 .. 2**bits - 1`.
    scale: float32 `[out, groups]`, positive, in the unit of the weight.
    zero: int32 `[out, groups]`, the unsigned code that stands for zero; `2**(bits-1)` if symmetric.
    bits: 1 to 8. group_size: input columns that share one scale, -1 for a whole row.

    Raises RetrofitError when the parts do not fit together.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    bits: int
    group_size: int
    symmetric: bool

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise RetrofitError(f"a packed weight has 1 to 8 bits, not {self.bits}")
        if self.codes.ndim != 2:
            raise RetrofitError(f"codes must be [out, in], found shape {tuple(self.codes.shape)}")
        if self.codes.dtype not in (torch.uint8, torch.int32):
            raise RetrofitError(f"codes must be uint8 or int32, found {self.codes.dtype}")
        columns = self.codes.shape[1]
        if self.group_size != -1 and (self.group_size < 1 or columns % self.group_size):
            raise RetrofitError(
                f"group size {self.group_size} does not divide the {columns} input columns"
            )
        wanted = (self.codes.shape[0], self.groups)
        for name, part in (("scale", self.scale), ("zero", self.zero)):
            if tuple(part.shape) != wanted:
                raise RetrofitError(
                    f"{name} must be [out, groups] = {wanted}, found {tuple(part.shape)}"
                )
        if self.scale.dtype != torch.float32:
            raise RetrofitError(f"scale must be float32, found {self.scale.dtype}")
        if self.zero.is_floating_point():
            raise RetrofitError(f"zero must be an integer code, found {self.zero.dtype}")
        top = 2**self.bits - 1
        for name, part in (("codes", self.codes), ("zero", self.zero)):
            low, high = (int(v) for v in torch.aminmax(part)) if part.numel() else (0, 0)
            if low < 0 or high > top:
                raise RetrofitError(
                    f"{name} of a {self.bits}-bit weight lie in 0..{top}, found {low}..{high}"
                )
        if not torch.isfinite(self.scale).all():
            raise RetrofitError("scale holds a value that is not finite")
        if self.symmetric and not bool((self.zero == 2 ** (self.bits - 1)).all()):
            raise RetrofitError(
                f"a symmetric {self.bits}-bit weight has zero = {2 ** (self.bits - 1)} everywhere"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """`(out, in)` of the weight."""
        return tuple(self.codes.shape)

    @property
    def columns_per_group(self) -> int:
        """Input columns under one scale; the whole row when `group_size` is -1."""
        return self.codes.shape[1] if self.group_size == -1 else self.group_size

    @property
    def groups(self) -> int:
        """Scales per output row."""
        return self.codes.shape[1] // self.columns_per_group

    def dequantize(self) -> torch.Tensor:
        """The float32 weight `[out, in]`: `(code - zero) * scale`, one rounding per element."""
        rows, columns = self.codes.shape
        steps = self.codes.to(torch.int32).reshape(rows, self.groups, -1)
        steps = steps - self.zero.to(torch.int32)[:, :, None]
        return (steps.to(torch.float32) * self.scale[:, :, None]).reshape(rows, columns)

    def same_as(self, other: PackedWeight) -> bool:
        """Whether both hold the same codes, scales, zeros and description, bit for bit."""
        return (
            (self.bits, self.group_size, self.symmetric)
            == (other.bits, other.group_size, other.symmetric)
            and torch.equal(self.codes.to(torch.int32), other.codes.to(torch.int32))
            and torch.equal(self.scale, other.scale)
            and torch.equal(self.zero.to(torch.int32), other.zero.to(torch.int32))
        )

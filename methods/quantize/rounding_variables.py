"""How a rounding is parametrised: one class for each answer to "which variable is learned?".

A variable holds one layer's weight in groups and gives its quantised weight with gradients (`weight`)
and, in the end, as integer codes (`packed`). They differ in which codes they can reach:

    adaround          floor or ceiling of w / s, through a rectified sigmoid
    autoround         nearest code of w / s + v, |v| <= 1/2, with a learned range
    plus_minus_one    nearest code of w / s + v, |v| <= 1
    full_range        any code: the nearest of a free number that starts at w / s
    flexround         any code: nearest of w / (s1 S2 s3), elementwise and by row
    power             nearest point of a power grid, its exponent learned or fixed

*Fidelity.* Formulas are those of `rounding.py`. Ours: the range or scale can be learned with any
variable (`learn_range`), and a mask can hold weights at their nearest code. What is learned is float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from methods.export.packed import PackedWeight
from methods.quantize import rounding
from methods.quantize.grid import Grid, pack, scale_and_zero, to_codes, weight_range

if TYPE_CHECKING:
    from methods.quantize.learned_params import LearnedRounding


class Variable(nn.Module, ABC):
    """One layer's rounding. groups: float32 `[out, groups, g]`, as it was before quantisation.

    start: where learning starts, on the same scale (the groups themselves, or compensated weights).
    free: bool like the groups, False where the nearest code is kept; None: all are free.
    shape: of the layer's weight, `[out, in]` or a convolution's; None: `[out, in]`.
    """

    def __init__(
        self,
        groups: Tensor,
        scale: Tensor,
        zero: Tensor,
        grid: Grid,
        params: LearnedRounding,
        free: Tensor | None = None,
        shape: torch.Size | None = None,
    ):
        super().__init__()
        self.shape = shape or torch.Size((groups.shape[0], groups[0].numel()))
        self.grid, self.params, self.free = grid, params, free
        self.register_buffer("groups", groups)
        self.register_buffer("scale0", scale)
        self.register_buffer("zero0", zero)
        self.register_buffer("ratio", groups / scale.unsqueeze(-1))
        self.log_scale: Tensor | None = None
        if params.learn_range:
            self.log_scale = nn.Parameter(torch.zeros_like(scale))
        self.start()

    def start(self) -> None:
        """Make the parameters."""

    def rounding_parameters(self) -> list[nn.Parameter]:
        """What is learned besides the range."""
        return [p for n, p in self.named_parameters() if n != "log_scale"]

    def range_parameters(self) -> list[nn.Parameter]:
        """Scales, where they are learned."""
        return [] if self.log_scale is None else [self.log_scale]

    def scale(self) -> Tensor:
        """Scales `[out, groups]`, as they will be stored."""
        scale = self.scale0
        if self.log_scale is not None:
            scale = scale * self.log_scale.exp()
        return rounding.ste_cast(scale, self.grid.scale_dtype)

    def zero(self) -> Tensor:
        """Zero points `[out, groups]`."""
        return self.zero0

    @abstractmethod
    def weight(self, soft: bool = True) -> Tensor:
        """The quantised weight `[out, in]` with gradients; as deployed unless `soft`."""

    def regulariser(self, step: int, steps: int) -> Tensor | None:
        """A term of the loss, or None."""
        return None

    def project(self) -> None:
        """Put the parameters back where they may be, after an update; called without gradients."""


class UniformVariable(Variable):
    """A variable on a uniform grid: its result is integer codes, scales and zero points."""

    @abstractmethod
    def learned_codes(self, soft: bool) -> Tensor:
        """Codes with gradients; whole numbers unless `soft`."""

    def codes(self, soft: bool = True) -> Tensor:
        """Codes with gradients; where they are not free, the nearest on the grid as it is now."""
        learned = self.learned_codes(soft)
        if self.free is None:
            return learned
        scale, zero = self.scale().detach(), self.zero().detach()
        return torch.where(self.free, learned, to_codes(self.groups, scale, zero, self.grid))

    def weight(self, soft: bool = True) -> Tensor:
        """See `Variable`: (q - z) s."""
        codes = self.codes(soft)
        return ((codes - self.zero().unsqueeze(-1)) * self.scale().unsqueeze(-1)).flatten(1)

    @torch.no_grad()
    def packed(self) -> PackedWeight:
        """The result as integer codes."""
        codes = self.codes(soft=False).flatten(1)
        scale = self.scale().to(self.grid.scale_dtype).float()
        return PackedWeight(
            codes.round().to(torch.uint8),
            scale.contiguous(),
            self.zero().round().to(torch.int32).contiguous(),
            self.grid.bits,
            self.grid.group_size,
            self.grid.symmetric,
        )


class AdaRound(UniformVariable):
    """Floor or ceiling."""

    def start(self) -> None:
        """h starts as the remainder, so that the soft weight is the float weight."""
        rest = self.ratio - self.ratio.floor()
        self.v = nn.Parameter(rounding.inverse_rectified_sigmoid(rest))

    def learned_codes(self, soft: bool) -> Tensor:
        """See `Variable`."""
        h = rounding.rectified_sigmoid(self.v) if soft else (self.v >= 0).to(self.v.dtype)
        return rounding.soft_codes(self.ratio, h, self.zero0, self.grid.top)

    def regulariser(self, step: int, steps: int) -> Tensor | None:
        """lambda times the sum that pulls h to 0 or 1, after the warm-up."""
        beta = rounding.beta_at(step, steps, self.params.warm_up)
        if beta is None:
            return None
        h = rounding.rectified_sigmoid(self.v)
        return self.params.regularisation * rounding.rounding_regulariser(h, beta)


class Shifted(UniformVariable):
    """Nearest code of w / s + v with a bounded v."""

    bound = 1.0

    def start(self) -> None:
        """v = 0 is rounding to nearest."""
        self.v = nn.Parameter(torch.zeros_like(self.ratio))

    def learned_codes(self, soft: bool) -> Tensor:
        """See `Variable`."""
        return rounding.shifted_codes(self.ratio, self.v, self.zero0, self.grid.top)

    def project(self) -> None:
        """Keep |v| within its bound."""
        self.v.clamp_(-self.bound, self.bound)


class AutoRound(Shifted):
    """v within half a step, and a range that can shrink, from which scale and zero follow."""

    bound = 0.5

    def start(self) -> None:
        """The range that the given scale and zero stand for."""
        super().start()
        low = -self.zero0 * self.scale0
        self.register_buffer("low", low)
        self.register_buffer("high", low + self.scale0 * self.grid.top)
        if self.log_scale is not None:
            self.log_scale = None
            self.alpha = nn.Parameter(torch.ones_like(self.scale0))
            self.beta = nn.Parameter(torch.ones_like(self.scale0))

    def rounding_parameters(self) -> list[nn.Parameter]:
        """See `Variable`."""
        return [self.v]

    def range_parameters(self) -> list[nn.Parameter]:
        """See `Variable`."""
        return [self.alpha, self.beta] if hasattr(self, "alpha") else []

    def _range(self) -> tuple[Tensor, Tensor]:
        if not hasattr(self, "alpha"):
            return self.scale0, self.zero0
        scale, zero = rounding.scaled_range(
            self.low, self.high, self.alpha, self.beta, self.grid.top
        )
        if self.grid.symmetric:
            zero = self.zero0
        return rounding.ste_cast(scale, self.grid.scale_dtype), zero

    def scale(self) -> Tensor:
        """See `Variable`."""
        return self._range()[0]

    def zero(self) -> Tensor:
        """See `Variable`."""
        return self._range()[1]

    def learned_codes(self, soft: bool) -> Tensor:
        """See `Variable`."""
        scale, zero = self._range()
        ratio = self.groups / scale.unsqueeze(-1)
        return rounding.shifted_codes(ratio, self.v, zero, self.grid.top)

    def weight(self, soft: bool = True) -> Tensor:
        """See `Variable`; the range is computed once."""
        scale, zero = self._range()
        codes = rounding.shifted_codes(
            self.groups / scale.unsqueeze(-1), self.v, zero, self.grid.top
        )
        if self.free is not None:
            nearest = to_codes(self.groups, scale.detach(), zero.detach(), self.grid)
            codes = torch.where(self.free, codes, nearest)
        return ((codes - zero.unsqueeze(-1)) * scale.unsqueeze(-1)).flatten(1)

    def project(self) -> None:
        """Keep v within half a step and the range within the weights'."""
        super().project()
        for part in self.range_parameters():
            part.clamp_(0, 1)


class FullRange(UniformVariable):
    """Any code: a free number for each weight, rounded."""

    def start(self) -> None:
        """u starts at w / s."""
        self.u = nn.Parameter(self.ratio.clone())

    def learned_codes(self, soft: bool) -> Tensor:
        """See `Variable`."""
        return (rounding.ste_round(self.u) + self.zero0.unsqueeze(-1)).clamp(0, self.grid.top)


class FlexRound(UniformVariable):
    """w / (s S2 s3): divisors for each element and each row, positive through exponentials."""

    def start(self) -> None:
        """All divisors start at 1: rounding to nearest."""
        self.element = nn.Parameter(torch.zeros_like(self.ratio))
        self.row = nn.Parameter(torch.zeros_like(self.ratio[:, :1, :1]))

    def learned_codes(self, soft: bool) -> Tensor:
        """See `Variable`; a learned scale divides here and multiplies afterwards."""
        ratio = self.groups / self.scale().unsqueeze(-1) * (-self.element - self.row).exp()
        codes = rounding.ste_round(ratio) + self.zero0.unsqueeze(-1)
        return codes.clamp(0, self.grid.top)


class Power(Variable):
    """A power grid. `exponent: learn` learns one exponent for the layer (after NUPES, 2308.05600),
    and with a shift of each weight the whole grid can be reached; otherwise both are fixed.
    """

    def start(self) -> None:
        """The exponent that the settings give, and no shift."""
        exponent = torch.tensor(float(self.params.exponent))
        if self.params.learn_exponent:
            self.exponent = nn.Parameter(exponent)
            self.shift = nn.Parameter(torch.zeros_like(self.groups))
        else:
            self.register_buffer("exponent", exponent)

    def weight(self, soft: bool = True) -> Tensor:
        """See `Variable`."""
        top = 2 ** (self.grid.bits - 1) - 1
        exponent = self.exponent.clamp(0.2, 1.5)
        mapped = rounding.power_map(self.groups, exponent)
        scale = mapped.abs().amax(-1, keepdim=True).clamp(min=1e-12) / top
        ratio = mapped / scale
        if self.params.learn_exponent:
            ratio = ratio + self.shift
        codes = rounding.ste_round(ratio).clamp(-top, top)
        return rounding.power_inverse(codes * scale, exponent).flatten(1)


VARIABLES: dict[str, type[Variable]] = {
    "adaround": AdaRound,
    "autoround": AutoRound,
    "plus_minus_one": Shifted,
    "full_range": FullRange,
    "flexround": FlexRound,
    "power": Power,
}


def initial_range(groups: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scale and zero of the groups' own span."""
    return scale_and_zero(*weight_range(groups), grid)


def nearest(groups: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> PackedWeight:
    """Rounding to nearest on a given grid: what learning starts from and must beat."""
    return pack(groups.flatten(1), scale, zero, grid)

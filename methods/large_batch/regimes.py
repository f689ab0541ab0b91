"""What a larger batch changes in a training regime: the learning rate and the number of epochs.

Hoffer, Hubara, Soudry 2017 (arXiv 1705.08741), sections 3.3 and 5. Pure functions; nothing is
changed in place, so applying a rule twice to the same regime gives the same result.

Fidelity
--------
Paper: rate proportional to the square root of the batch, because the covariance of an update is
(eta^2 / M) times that of a sample's gradient; and "regime adaptation", which stretches every
duration so that the number of updates stays that of the small batch.

Published code: the reference batch of both rules is 256 in ``main_normal.py`` but the ghost size
in ``main_gbn.py``, so the same settings give rates that differ by sqrt(2); here the reference is a
parameter of its own. It multiplies ``v['lr']`` inside ``model.regime``: a second call scales
again. Both are avoided; the stretch by ceil(B / reference) whole epochs is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

LearningRateRule = Literal["none", "sqrt", "linear"]


@dataclass(frozen=True)
class Regime:
    """Learning rates by the epoch from which they hold ({0: .1, 81: .01}), and the epochs in all."""

    rates: dict[int, float]
    epochs: int

    def __post_init__(self):
        if 0 not in self.rates:
            raise ValueError(f"the regime {self.rates} has no rate for epoch 0")
        if self.epochs < 1:
            raise ValueError(f"epochs={self.epochs}: must be at least 1")

    def rate(self, epoch: int) -> float:
        """The learning rate in ``epoch`` (0, 1, …)."""
        return self.rates[max(start for start in self.rates if start <= epoch)]

    @property
    def first_phase(self) -> int:
        """Epochs before the rate first changes."""
        return min([start for start in self.rates if start > 0] + [self.epochs])


def stepped(rate: float, milestones: list[int], factor: float, epochs: int) -> Regime:
    """``rate``, multiplied by ``factor`` from each milestone (an epoch) on."""
    starts = [0, *milestones]
    return Regime({start: rate * factor**n for n, start in enumerate(starts)}, epochs)


def rate_factor(batch: int, reference: int, rule: LearningRateRule) -> float:
    """What the learning rate is multiplied by: sqrt(batch/reference), batch/reference or 1."""
    ratio = batch / reference
    if rule == "none":
        return 1.0
    if rule == "sqrt":
        return math.sqrt(ratio)
    if rule == "linear":
        return ratio
    raise ValueError(f"lr_rule={rule!r}: allowed are none, sqrt, linear")


def scale_rates(regime: Regime, batch: int, reference: int, rule: LearningRateRule) -> Regime:
    """The regime with its rates multiplied for ``batch``."""
    factor = rate_factor(batch, reference, rule)
    return replace(regime, rates={start: rate * factor for start, rate in regime.rates.items()})


def adapt(regime: Regime, batch: int, reference: int) -> Regime:
    """Regime adaptation: every duration times ceil(batch/reference), so updates stay as many."""
    stretch = math.ceil(batch / reference)
    rates = {start * stretch: rate for start, rate in regime.rates.items()}
    return Regime(rates, regime.epochs * stretch)


def matched_updates(samples: int, regime: Regime, batch: int, reference: int) -> Regime:
    """Regime adaptation that matches the small batch's updates as closely as whole epochs allow.

    The published stretch overshoots where the last batch of an epoch is incomplete: 9000 samples
    give 141 updates at 64, but 16 x 9 = 144 at 1024.
    """
    per_small, per_large = math.ceil(samples / reference), math.ceil(samples / batch)

    def epochs(small: int) -> int:
        return max(1, round(small * per_small / per_large)) if small else 0

    rates = {epochs(start): rate for start, rate in regime.rates.items()}
    return Regime(rates, epochs(regime.epochs))

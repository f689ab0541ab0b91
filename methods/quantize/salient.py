"""How much a few input channels matter: the analysis that AWQ starts from (2306.00978, Section 3).

`keep`: all weights are rounded but those of a small share of input channels, chosen by mean
activation, by the norm of their weights, or by chance (Table 1). `scale`: the chosen channels are
multiplied by s before rounding and divided by it after (Table 2). The result is a float model of
simulated quantisation: kept channels fit no integer format.

*Fidelity.* Layers are treated one by one on features of the float model. The ranges of the groups
include the kept channels, as rounding first and restoring then does. The share is of each layer's
input channels, at least one. Metrics are the paper's error analysis (Equation 3): a salient
channel's error changes by (D'/D)(1/s), D and D' being its group's step before and after scaling.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from methods.models.blocks import block_linears, first_block_inputs, run_block
from methods.quantize.calibration import calibration_windows
from methods.quantize.features import BATCH, InputStatistics, check_finite, watching
from methods.quantize.grid import Grid, grouped, pseudo_quantize, scale_and_zero, weight_range
from methods.quantize.targets import noted, targets
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.models.language import LanguageModel
    from methods.quantize.params import Salient
    from methods.run.context import Context


@torch.no_grad()
def apply(base: LanguageModel, data: dict, params: Salient, context: Context) -> LanguageModel:
    """The base with simulated rounding. Raises RetrofitError as AWQ does."""
    blocks = targets(base, params)
    base.model.to(context.device)
    grid, generator = Grid.of(params), context.generator("salient channels")
    analysis = StepAnalysis()
    hidden = arguments = None
    if params.by == "activation":
        windows = calibration_windows(data, base.tokenizer, context)
        hidden, arguments = first_block_inputs(base.model, windows)
        hidden = hidden.to(getattr(torch, params.compute_dtype))
    for name, block in context.progress(blocks, label="salient"):
        linears = block_linears(block)
        seen = {layer: InputStatistics() for layer in linears}
        if hidden is not None:
            with watching([(linears[layer], s) for layer, s in seen.items()]):
                hidden = run_block(block, hidden, arguments, BATCH, hidden.dtype, out=hidden)
            check_finite(seen, name)
        for layer, linear in linears.items():
            weight = linear.weight.float()
            chosen = choose(weight, params, seen[layer], generator)
            if params.action == "keep":
                new = keep(weight, chosen, grid)
            else:
                new = scale(weight, chosen, params.scale, grid)
                analysis.add(weight, chosen, params.scale, grid)
            linear.weight.data = new.to(linear.weight)
    facts = {"action": params.action, "by": params.by, "fraction": params.fraction}
    metrics = analysis.metrics() if params.action == "scale" else {}
    return replace(base, notes=noted(base, params, facts), metrics=metrics)


def choose(
    weight: torch.Tensor,
    params: Salient,
    seen: InputStatistics,
    generator: torch.Generator,
) -> torch.Tensor:
    """Indices of the salient input channels of `weight` `[out, in]`."""
    columns = weight.shape[1]
    count = max(1, round(params.fraction * columns)) if params.fraction else 0
    if params.by == "random":
        return torch.randperm(columns, generator=generator)[:count].to(weight.device)
    score = seen.magnitude if params.by == "activation" else weight.norm(dim=0)
    return score.topk(count).indices


def keep(weight: torch.Tensor, chosen: torch.Tensor, grid: Grid) -> torch.Tensor:
    """`weight` rounded, the chosen columns as they were."""
    rounded = pseudo_quantize(weight, grid)
    rounded[:, chosen] = weight[:, chosen]
    return rounded


def scale(weight: torch.Tensor, chosen: torch.Tensor, s: float, grid: Grid) -> torch.Tensor:
    """Q(W diag(s)) diag(s)^-1 with s on the chosen columns and 1 elsewhere."""
    factor = torch.ones(weight.shape[1], device=weight.device)
    factor[chosen] = s
    return pseudo_quantize(weight * factor, grid).div_(factor)


@dataclass
class StepAnalysis:
    """Group steps after scaling against before, over all groups of all layers.

    ratios: D'/D of every group; salient: D'/D of the group of every chosen channel, each row.
    """

    ratios: list[torch.Tensor] = field(default_factory=list)
    salient: list[torch.Tensor] = field(default_factory=list)
    s: float = 1.0

    def add(self, weight: torch.Tensor, chosen: torch.Tensor, s: float, grid: Grid) -> None:
        """Take in one layer."""
        factor = torch.ones(weight.shape[1], device=weight.device)
        factor[chosen] = s
        before, after = (
            scale_and_zero(*weight_range(grouped(w, grid.group_size)), grid)[0]
            for w in (weight, weight * factor)
        )
        ratio = after / before
        size = weight.shape[1] // ratio.shape[1]
        self.ratios.append(ratio.flatten())
        self.salient.append(ratio[:, chosen // size].flatten())
        self.s = s

    def metrics(self) -> dict[str, Metric]:
        """Share of groups with D' != D, mean D'/D, and the salient channels' mean (D'/D)(1/s)."""
        ratios, salient = torch.cat(self.ratios), torch.cat(self.salient)
        return {
            "step/changed": Metric(float((ratios != 1).float().mean()), n=len(ratios)),
            "step/ratio": Metric(float(ratios.mean()), n=len(ratios)),
            "step/salient_error_ratio": Metric(float(salient.mean()) / self.s, n=len(salient)),
        }

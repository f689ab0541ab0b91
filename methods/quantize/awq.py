"""AWQ: activation-aware weight quantisation (Lin et al., 2306.00978).

Input channels that carry large activations matter most. Multiplying such a channel's weights by
s > 1 before rounding, and dividing the channel by s in the layer before, leaves the float network
unchanged and makes the channel's rounding error about s times smaller. Block by block, for every
place where such a scale can be folded (`mappings.py`): try s = mean|x|^r on a grid of r
(`scale_search.py`), keep the r whose rounded layers change the output least, fold it (`fold.py`);
then clip (`clip.py`) and round (`grid.py`). `awq_block.py` does this for one block.

*Fidelity.* Follows the published code (mit-han-lab/llm-awq): the grid r = 0, 1/20, … 19/20, scales
normalised by sqrt(max * min), loss on the output of the whole attention or feed-forward module,
clipping of all but query and key on 512 tokens, features of the float model as the next block's
inputs. Options say where AutoAWQ (`duo`) or llm-compressor (`duo: both`, `include_r1`, no clipping)
differ. Chosen here: where the loss belongs to one linear layer it is computed from the second
moment of all calibration tokens, which is exact; for the nonlinear modules it is compared on
`search_tokens` of them (whole sequences for attention), after all exponents were screened on
`screen_tokens`. Forward passes run in `compute_dtype`; all
statistics and losses are float32. Avoided: weights restored from an alias of themselves on the CPU
(candidates never write to the model), the zero point clamped for groups of one sign
(`zero_point`), the crash below 512 calibration tokens, scales that turn NaN, and decoder layers
whose output `[0]` is the first sequence. Shared value heads: skipped as published, or
`gqa_v_o: exact`, our extension.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from methods.models.blocks import block_linears, first_block_inputs, run_block
from methods.quantize.awq_block import BlockSearch, search_block
from methods.quantize.calibration import calibration_windows
from methods.quantize.clip import clamp_groups
from methods.quantize.features import BATCH
from methods.quantize.fold import fold
from methods.quantize.grid import Grid, round_to_nearest
from methods.quantize.mappings import Place, check_unchanged, resolve, scale_groups
from methods.quantize.targets import noted, result, store, targets
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.models.language import LanguageModel
    from methods.quantize.params import AWQ
    from methods.run.context import Context

SECONDS_BETWEEN_CHECKPOINTS = 20


@torch.no_grad()
def apply(base: LanguageModel, data: dict, params: AWQ, context: Context) -> LanguageModel:
    """The base with scales folded, weights clipped, and rounded unless `quantize: false`.

    Raises RetrofitError: base or group size as `targets` says, architecture without a table,
    calibration too short or not finite.
    """
    blocks = targets(base, params)
    table = scale_groups(base.model) if params.scales else ()
    windows = calibration_windows(data, base.tokenizer, context)
    base.model.to(context.device)
    dtype = getattr(torch, params.compute_dtype)
    hidden, arguments = first_block_inputs(base.model, windows)
    hidden = hidden.to(dtype)
    decided = Decisions.resume(context)
    if decided.hidden is not None:
        hidden = decided.hidden.to(context.device)
    start, quantized, skipped = decided.blocks, {}, {}
    for index, (name, block) in enumerate(context.progress(blocks, label="awq")):
        places, left_out = [], {}
        if params.scales:
            places, left_out = resolve(block, table, base.model.config, params.gqa_v_o)
        skipped |= left_out
        if index < start:
            carry_out(block, places, decided.scales(name), decided.limits(name))
        else:
            # The table of an architecture is proved on the model at hand, once.
            before = run_block(block, hidden[:1].float(), arguments) if index == 0 else None
            search = search_block(name, block, places, hidden, arguments, params)
            if before is not None:
                check_unchanged(before, run_block(block, hidden[:1].float(), arguments), name)
            carry_out(block, [], {}, search.limits)
            decided.add(name, search)
            for row in search.records:
                context.record(block=index, **row)
        if params.quantize:
            packed = {
                layer: round_to_nearest(linear.weight.float(), Grid.of(params))
                for layer, linear in block_linears(block).items()
            }
            store(block, packed)
            quantized |= {f"{name}.{layer}": weight for layer, weight in packed.items()}
        if index >= start:
            if params.inputs == "quantized":
                run_block(block, hidden, arguments, BATCH, dtype, out=hidden)
            else:
                hidden = search.outputs
            if context.checkpoint.every(SECONDS_BETWEEN_CHECKPOINTS):
                decided.save(context, hidden)
    for place, reason in skipped.items():
        context.log.info("awq: no scale for %s: %s", place, reason)
    facts = {"calibration": f"{list(windows.shape)} of {data['calibration'][0].name}"}
    facts |= {"skipped": skipped} if skipped else {}
    if params.quantize:
        model = result(base, params, quantized, facts)
    else:
        model = replace(base, notes=noted(base, params, facts), quantized={}, metrics={})
    model.metrics = decided.metrics()
    return model


@torch.no_grad()
def carry_out(
    block: nn.Module,
    places: list[Place],
    scales: dict[str, torch.Tensor],
    limits: dict[str, torch.Tensor],
) -> None:
    """Fold decided scales and clip to decided limits; the same bits as when they were decided."""
    for place in places:
        fold(place, scales[place.group.previous])
    for name, limit in limits.items():
        weight = block.get_submodule(name).weight
        weight.data = clamp_groups(weight.data, limit.to(weight))


@dataclass
class Decisions:
    """Scales and limits of the blocks that are done: all that is needed to go on after a stop.

    hidden: what enters the next block. gains: loss_best / loss_rtn of every place.
    """

    blocks: int = 0
    hidden: torch.Tensor | None = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    gains: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    @classmethod
    def resume(cls, context: Context) -> Decisions:
        """From the run's checkpoint; empty where there is none."""
        saved = context.checkpoint.load()
        if saved is None:
            return cls()
        tensors = saved["tensors"]
        return cls(hidden=tensors.pop("hidden"), tensors=tensors, **saved["state"])

    def save(self, context: Context, hidden: torch.Tensor) -> None:
        """Write the checkpoint."""
        state = {"blocks": self.blocks, "gains": self.gains, "shares": self.shares}
        context.checkpoint.save(self.tensors | {"hidden": hidden}, state)

    def add(self, name: str, search: BlockSearch) -> None:
        """Keep the decisions for one more block."""
        self.blocks += 1
        for kind, found in (("scale", search.scales), ("limit", search.limits)):
            self.tensors |= {f"{kind}/{name}/{part}": value for part, value in found.items()}
        for row in search.records:
            if row.get("loss_rtn"):
                self.gains.append(row["loss_best"] / row["loss_rtn"])
            if "clip" in row:
                self.shares.append(row["clip"])

    def scales(self, name: str) -> dict[str, torch.Tensor]:
        """Of the block `name`, by the module they are folded into."""
        return self._part(f"scale/{name}/")

    def limits(self, name: str) -> dict[str, torch.Tensor]:
        """Of the block `name`, by layer."""
        return self._part(f"limit/{name}/")

    def _part(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            key.removeprefix(prefix): value
            for key, value in self.tensors.items()
            if key.startswith(prefix)
        }

    def metrics(self) -> dict[str, Metric]:
        """Mean share of RTN's output error that the scales leave, and mean clipping limit."""
        found = {}
        for name, values in (("scale_search/loss_ratio", self.gains), ("clip/share", self.shares)):
            if values:
                mean = sum(values) / len(values)
                found[name] = Metric(mean, n=len(values), higher_is_better=False)
        return found

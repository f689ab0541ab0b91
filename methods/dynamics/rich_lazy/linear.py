"""One run of the linear theory: gradient flow of many two-layer networks beside the closed form.

Fidelity: section 2.3's model and assumptions (whitened inputs, w_2(0) = 0, small W_1(0), target of norm 1);
fourth-order Runge-Kutta steps in float64 stand for the flow.  Deviations from the closed form are of order scale^2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from methods.dynamics.rich_lazy import linear_theory as theory
from methods.measure.exponents import exponent
from methods.models.estimates import Estimates
from methods.run.metrics import Metric

if TYPE_CHECKING:
    from methods.dynamics.rich_lazy.params import RichLazyLinear
    from methods.run.context import Context


def apply(base: None, data: dict, params: RichLazyLinear, context: Context) -> Estimates:
    """Kernel alignment by simulation and by the closed form, for every rank and replicate.

    `deviation`: simulation minus the closed form for the drawn target; `theory`: its mean over targets; `beyond`:
    simulation minus that mean; `exponent`: of the alignment's growth with rank (one half by the theory).
    """
    rng = context.numpy("rich_lazy linear")
    ranks = [1] if params.start == "aligned" else params.ranks
    records, found, simulated = [], {}, []
    for rank in context.progress(ranks, len(ranks), "ranks"):
        beta = theory.sphere(params.replicates, params.inputs, rng)
        w1 = _start(params, rank, beta, rng)
        m0 = theory.kernel_matrix(w1, np.zeros(w1.shape[:2]))
        trained = theory.train(w1, beta)
        ka = theory.alignment(m0, theory.kernel_matrix(trained.w1, trained.w2))
        predicted, mean = theory.predicted(m0, beta), theory.expected(m0)
        simulated.append(ka)
        name = "aligned" if params.start == "aligned" else f"rank-{rank}"
        found[f"kernel_alignment/{name}"] = _metric(ka)
        found[f"deviation/{name}"] = _metric(ka - predicted)
        if params.start == "aligned":
            found["advantage/aligned"] = _metric(ka - _random_rank_one(params.inputs))
        else:
            found[f"theory/{name}"] = _metric(mean)
            found[f"beyond/{name}"] = _metric(ka - mean)
        for number in range(params.replicates):
            values = {"kernel_alignment": float(ka[number]), "predicted": float(predicted[number])}
            records.append({"replicate": number, "start": name, **values})
        context.record(rank=rank, kernel_alignment=float(ka.mean()), theory=float(mean.mean()))
    if len(ranks) > 2:
        fitted = exponent(np.array(ranks), np.array(simulated), seed=context.seed_for("bootstrap"))
        found["exponent"] = fitted.metric()
    arrays = {"kernel_alignment": np.array(simulated), "ranks": np.array(ranks)}
    return Estimates(records, arrays, found)


def _start(
    params: RichLazyLinear, rank: int, beta: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    if params.start == "aligned":
        return theory.task_aligned(beta, params.hidden, params.scale, rng)
    return theory.equal_spectrum(
        params.replicates, params.hidden, params.inputs, rank, params.scale, rng
    )


def _random_rank_one(d: int) -> float:
    return (1.0 + 1.0 / d) / math.sqrt(d + 3.0)


def _metric(values: np.ndarray) -> Metric:
    # Some are the same for every replicate but for rounding, which is no spread.
    values = values.round(12)
    stderr = float(values.std(ddof=1)) / math.sqrt(len(values))
    labels = [str(number) for number in range(len(values))]
    return Metric(float(values.mean()), stderr, len(values), values=values.tolist(), labels=labels)

"""Maximum likelihood of mixtures of experts by EM, for a batch of data sets at once.

Fidelity
--------
Papers: EM until the log-likelihood rises by less than 1e-6, at most 2000 iterations; the gate's M-step by gradient
steps (2309.13850 and 2401.13875, experiments). Chosen: experts by exact weighted least squares; the gate by one
Newton step (Gauss-Newton where phi is no identity), damped, and halved until its part of the bound does not fall, so
that EM never lowers the likelihood of a gate without a mask. With top-K the mask moves with the gate and the bound is
piecewise smooth: a step that lowers the likelihood of a data set is taken back, and that data set is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from methods.mixtures.gates import Gate, activate, log_gates, mask, scores
from methods.mixtures.mixture import (
    SMALLEST_VARIANCE,
    Mixture,
    responsibilities,
    weighted_least_squares,
)

HALVINGS = 12
LONGEST_STEP = 100.0
"""Of an extrapolation, in steps of EM."""
DAMPING = 1e-9
"""Share of the mean curvature that is added to every direction, so that null directions move by nothing."""


@dataclass(frozen=True)
class Fit:
    """mixture: of the batch. log_likelihood, iterations, converged: [R]."""

    mixture: Mixture
    log_likelihood: Tensor
    iterations: Tensor
    converged: Tensor


@dataclass(frozen=True)
class Free:
    """Which numbers of the gate may move: bool [k], [k], and one for the temperature."""

    beta0: Tensor
    beta1: Tensor
    tau: bool

    @classmethod
    def of(cls, gate: Gate, experts: int, tau: bool = True) -> Free:
        """All but what a shift makes superfluous: the last beta0 and, where phi is the identity, beta1."""
        beta0 = torch.ones(experts, dtype=torch.bool)
        beta0[-1] = False
        beta1 = torch.ones(experts, dtype=torch.bool)
        beta1[-1] = gate.activation != "identity"
        if gate.active == 1:
            beta0[:] = beta1[:] = False  # a softmax over one expert is 1, whatever the gate says
        return cls(beta0, beta1, tau and gate.tempered)


def gate_bound(x: Tensor, r: Tensor, mixture: Mixture, gate: Gate) -> Tensor:
    """Q = sum_n sum_i r_ni log g_i(x_n), [...]; r is 0 where log g is -inf, unless the mask has moved."""
    logs = log_gates(x, mixture.beta1, mixture.beta0, gate, mixture.tau)
    return torch.where(r > 0, r * logs, 0.0).sum((-1, -2))


def gate_derivatives(
    x: Tensor, r: Tensor, mixture: Mixture, gate: Gate
) -> tuple[Tensor, Tensor, Tensor]:
    """Q [...], its gradient [..., p] and minus its Gauss-Newton Hessian [..., p, p].

    p = k (d + 1) + 1: beta1_1, beta0_1, ..., beta1_k, beta0_k, log tau. For phi the identity the Hessian is exact.
    """
    score = scores(x, mixture.beta1)
    value, slope = activate(score, gate.activation)
    tau = 1.0 if mixture.tau is None else mixture.tau[..., None, None]
    logit = (value + mixture.beta0.unsqueeze(-2)) / tau
    kept = mask(score, logit, gate)
    masked = logit if kept is None else logit.masked_fill(~kept, -torch.inf)
    logs = masked.log_softmax(-1)
    bound = torch.where(r > 0, r * logs, 0.0).sum((-1, -2))
    g = logs.exp()
    k = g.shape[-1]
    design = torch.cat(
        [slope.unsqueeze(-1) * x.unsqueeze(-2), torch.ones_like(g).unsqueeze(-1)], -1
    )
    design = design / (tau if isinstance(tau, float) else tau.unsqueeze(-1))
    size = design.shape[-1]
    weighted = (g.unsqueeze(-1) * design).flatten(-2)
    pull = (r - g).unsqueeze(-1) * design
    gradient = pull.sum(-3).flatten(-2)
    hessian = -(weighted.transpose(-1, -2) @ weighted)
    per_expert = design.transpose(-2, -3)  # [..., k, n, d + 1]
    own = per_expert.transpose(-1, -2) @ (g.transpose(-1, -2).unsqueeze(-1) * per_expert)
    for i in range(k):
        block = slice(i * size, (i + 1) * size)
        hessian[..., block, block] += own[..., i, :, :]
    warm = -logit
    mean = (g * warm).sum(-1, keepdim=True)
    cross = ((g * (warm - mean)).unsqueeze(-1) * design).sum(-3).flatten(-2)
    last = (g * (warm - mean) * warm).sum((-1, -2))
    gradient = torch.cat([gradient, ((r - g) * warm).sum((-1, -2)).unsqueeze(-1)], -1)
    hessian = torch.cat([hessian, cross.unsqueeze(-2)], -2)
    hessian = torch.cat([hessian, torch.cat([cross, last.unsqueeze(-1)], -1).unsqueeze(-1)], -1)
    return bound, gradient, hessian


def gate_step(x: Tensor, r: Tensor, mixture: Mixture, gate: Gate, free: Free) -> Mixture:
    """One Newton step of the gate, halved for each data set until Q does not fall, or not taken."""
    bound, gradient, hessian = gate_derivatives(x, r, mixture, gate)
    d = x.shape[-1]
    moves = torch.cat([free.beta1[:, None].expand(-1, d), free.beta0[:, None]], -1).flatten()
    moves = torch.cat([moves, torch.tensor([free.tau])])
    if not moves.any():
        return mixture
    gradient, hessian = gradient[..., moves], hessian[..., moves, :][..., moves]
    size = hessian.diagonal(dim1=-2, dim2=-1)
    damping = DAMPING * size.mean(-1, keepdim=True) + torch.finfo(x.dtype).tiny
    solved = torch.linalg.solve_ex(hessian + torch.diag_embed(size * DAMPING + damping), gradient)
    direction = torch.zeros((*gradient.shape[:-1], len(moves)), dtype=x.dtype)
    direction[..., moves] = torch.where(torch.isfinite(solved.result), solved.result, 0.0)
    open_sets = torch.arange(len(bound))
    step = 1.0
    for _ in range(HALVINGS):
        tried = _moved(mixture[open_sets], direction[open_sets] * step, d)
        part = (x[open_sets], r[open_sets]) if len(open_sets) < len(bound) else (x, r)
        better = gate_bound(*part, tried, gate) >= bound[open_sets]
        mixture = mixture.merged(open_sets[better], tried[better])
        open_sets = open_sets[~better]
        if not len(open_sets):
            break
        step /= 2
    return mixture


def _moved(mixture: Mixture, direction: Tensor, d: int) -> Mixture:
    parts = direction[..., :-1].unflatten(-1, (-1, d + 1))
    tau = mixture.tau
    if tau is not None:
        tau = tau * direction[..., -1].clamp(-2, 2).exp()
    return replace(
        mixture,
        beta1=mixture.beta1 + parts[..., :-1],
        beta0=mixture.beta0 + parts[..., -1],
        tau=tau,
    )


def em_map(x: Tensor, y: Tensor, r: Tensor, mixture: Mixture, gate: Gate, free: Free) -> Mixture:
    """The M-step: what maximises the bound (experts) or raises it (gate), given responsibilities."""
    a, b, v = weighted_least_squares(x, y, r, mixture)
    return gate_step(x, r, replace(mixture, a=a, b=b, v=v), gate, free)


def extrapolated(first: Mixture, second: Mixture, third: Mixture) -> Mixture:
    """Where three iterates of EM point to (SQUAREM, scheme S3; Varadhan and Roland 2008), for each data set.

    theta - 2 alpha r + alpha^2 v with r = second - first, v = third - 2 second + first, alpha = -|r| / |v| <= -1.
    Variances and temperature are extrapolated in logarithms.
    """
    one, two, three = (_flat(m) for m in (first, second, third))
    r, v = two - one, three - 2 * two + one
    tiny = torch.finfo(one.dtype).tiny
    alpha = -(r.norm(dim=-1, keepdim=True) / (v.norm(dim=-1, keepdim=True) + tiny))
    alpha = alpha.clamp(-LONGEST_STEP, -1.0)
    return _unflat(one - 2 * alpha * r + alpha.square() * v, first)


def _flat(mixture: Mixture) -> Tensor:
    parts = [mixture.beta0, mixture.beta1.flatten(-2), mixture.a.flatten(-2), mixture.b]
    parts.append(mixture.v.log())
    if mixture.tau is not None:
        parts.append(mixture.tau.log().unsqueeze(-1))
    return torch.cat(parts, -1)


def _unflat(theta: Tensor, like: Mixture) -> Mixture:
    k, d = like.beta1.shape[-2:]
    beta0, beta1, a, b, v, *tau = theta.split(
        [k, k * d, k * d, k, k] + [1] * (like.tau is not None), -1
    )
    return Mixture(
        beta0,
        beta1.unflatten(-1, (k, d)),
        a.unflatten(-1, (k, d)),
        b,
        v.exp().clamp(min=SMALLEST_VARIANCE),
        tau[0].squeeze(-1).exp() if tau else None,
    )


def em(
    x: Tensor,
    y: Tensor,
    start: Mixture,
    gate: Gate,
    *,
    free: Free | None = None,
    tolerance: float = 1e-6,
    iterations: int = 2000,
    accelerate: bool = True,
    each: Callable[[int, int], None] | None = None,
) -> Fit:
    """Fit R data sets: x [R, n, d], y [R, n], `start` of batch R.

    A data set is done when an iteration raises its log-likelihood by less than `tolerance`; those that are done
    leave the batch. accelerate: every third iteration starts from where the last three point to, unless that
    lowers the likelihood. each(iteration, how many are left) is called after every iteration.
    """
    gate.check(start.experts)
    free = free or Free.of(gate, start.experts)
    total = len(y)
    found, used = start, torch.full((total,), iterations)
    best, converged = torch.empty(total, dtype=y.dtype), torch.zeros(total, dtype=torch.bool)
    places, now = torch.arange(total), start
    r, likelihood = responsibilities(x, y, now, gate)
    trail = [now]
    for iteration in range(1, iterations + 1):
        after = em_map(x, y, r, now, gate, free)
        fresh, raised = responsibilities(x, y, after, gate)
        rise = raised - likelihood
        worse = (~(rise >= 0)).nonzero().squeeze(-1)  # a NaN is worse
        after, raised = (
            after.merged(worse, now[worse]),
            raised.index_copy(0, worse, likelihood[worse]),
        )
        done = ~(rise >= tolerance)
        now, r, likelihood = after, fresh, raised
        trail.append(now)
        if iteration == iterations or done.any():
            finished = torch.ones_like(done) if iteration == iterations else done
            where, left = places[finished], ~finished
            found = found.merged(where, now[finished])
            best[where], converged[where] = likelihood[finished], done[finished]
            used[where] = iteration
            places, now, r, likelihood = places[left], now[left], r[left], likelihood[left]
            x, y, trail = x[left], y[left], [old[left] for old in trail]
        if each:
            each(iteration, len(places))
        if not len(places):
            break
        if accelerate and len(trail) == 3:
            now, r, likelihood = _leap(x, y, gate, trail, now, r, likelihood)
            trail = [now]
    return Fit(found, best, used, converged)


def _leap(x, y, gate, trail, now, r, likelihood):
    """The extrapolated mixtures where they are likelier than what EM has, with their responsibilities."""
    tried = extrapolated(*trail)
    fresh, found = responsibilities(x, y, tried, gate)
    better = found > likelihood
    where = better.nonzero().squeeze(-1)
    if len(where):
        now = now.merged(where, tried[where])
        r = torch.where(better[:, None, None], fresh, r)
        likelihood = torch.where(better, found, likelihood)
    return now, r, likelihood


def empty_experts(x: Tensor, y: Tensor, mixture: Mixture, gate: Gate) -> Tensor:
    """How many experts answer for less than half a data point, [...]."""
    r, _ = responsibilities(x, y, mixture, gate)
    return (r.sum(-2) < 0.5).sum(-1)

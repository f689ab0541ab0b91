"""Networks trained as one stacked program beside the same networks one at a time, in one run.

    python benchmarks/sgd_noise_ensemble.py

Fully connected networks (2 x 64) on the parity of the digits of scikit-learn, batch 16, 64 members with scales and
temperatures of their own, two threads. One at a time is plain PyTorch: a module, its loss, backward, SGD.
"""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from methods.dynamics.sgd_noise.ensemble import Ensemble, Member
from methods.dynamics.sgd_noise.hinge import drawn, hinge
from methods.dynamics.sgd_noise.networks import build
from methods.dynamics.sgd_noise.params import DenseSizes

UPDATES, BATCH, SIZE = 300, 16, 512
ALPHAS = [2.0**k for k in range(-4, 12, 2)]
TEMPERATURES = [2.0**k for k in range(-9, -1)]


def main() -> None:
    """Print both throughputs, their ratio, and how far the weights differ."""
    torch.set_num_threads(2)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(digits.target % 2 * 2.0 - 1, dtype=torch.float32)
    # Cold and short, so that nobody fits and both do the same work.
    members = [Member(a, t * 1e-3, SIZE, 7) for a in ALPHAS for t in TEMPERATURES]
    torch.manual_seed(0)
    module = build(DenseSizes(width=64, depth=2), (1, 8, 8))
    modules = [copy.deepcopy(module) for _ in members]
    ensemble = Ensemble(modules, members, x, y, torch.arange(SIZE).expand(len(members), SIZE))
    ensemble.train(BATCH, 5)
    start = time.perf_counter()
    found = ensemble.train(BATCH, UPDATES)
    together = time.perf_counter() - start
    some = members[:: len(members) // 8]
    start = time.perf_counter()
    apart = [_alone(copy.deepcopy(module), member, x, y) for member in some]
    alone = (time.perf_counter() - start) * len(members) / len(some)
    gap = max(
        float((found.weights[name][members.index(m)] - value).abs().max())
        for m, weights in zip(some, apart, strict=True)
        for name, value in weights.items()
    )
    print("| | updates of one network a second |\n|---|--:|")
    print(f"| stacked, {len(members)} networks | {UPDATES * len(members) / together:,.0f} |")
    print(f"| one at a time | {UPDATES * len(members) / alone:,.0f} |")
    print(f"| ratio | {alone / together:.1f} |\n\nlargest difference of a weight: {gap:.1e}")


def _alone(module: torch.nn.Module, member: Member, x: torch.Tensor, y: torch.Tensor) -> dict:
    first = copy.deepcopy(module)
    with torch.no_grad():
        start = first(x[:SIZE]).squeeze(-1)
    optimizer = torch.optim.SGD(module.parameters(), member.temperature * BATCH)
    alpha, seed, size = torch.tensor(member.alpha), torch.tensor([7]), torch.tensor([SIZE])
    for update in range(UPDATES):
        rows = drawn(seed, update, BATCH, size)[0]
        optimizer.zero_grad()
        hinge(module(x[rows]).squeeze(-1) - start[rows], y[rows], alpha).backward()
        optimizer.step()
    return {name: value.detach() for name, value in module.named_parameters()}


if __name__ == "__main__":
    main()

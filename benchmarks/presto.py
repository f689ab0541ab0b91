"""PRESTO's solver beside general tools: CPU seconds at equal objective.

    pip install "cvxpy>=1.9" clarabel
    python benchmarks/presto.py                      # all problems, 4 of 20 penalties by cvxpy
    python benchmarks/presto.py --penalties 20       # every penalty of the path by cvxpy as well

cvxpy (Clarabel) gets the exact problem, compiled once, with the penalty as a parameter; a general solver
has no warm start, so its path is its mean time for one penalty, times 20. Ours is one warm-started path. R's
ordinalNet, where R has it, fits a path of the same size with a lasso on the slopes themselves (it has no penalty on
their differences), so only its time can be compared. One thread; CPU seconds of the solving alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from methods.ordinal.designs import DESIGNS, draw
from methods.ordinal.solver import Problem, standardisation
from methods.study.errors import RetrofitError

LENGTH, RATIO = 20, 0.01


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--penalties", type=int, default=4, help="how many cvxpy solves, 1 to 20")
    arguments = parser.parse_args()
    every = np.linspace(0, LENGTH - 1, min(max(arguments.penalties, 1), LENGTH)).round().astype(int)
    print(
        f"{'problem':<32}{'ours':>9}{'cvxpy':>10}{'ratio':>8}{'gap':>10}{'ordinalNet':>12}{'ratio':>8}"
    )
    for name, x, y, classes in problems():
        ours, objectives, lambdas = our_path(x, y, classes)
        theirs, gap = cvxpy_path(x, y, classes, lambdas, objectives, every)
        r = ordinal_net_path(x, y, lambdas)
        last = f"{r:>10.2f} s{r / ours:>8.0f}" if r else f"{'no R':>12}{'':>8}"
        print(f"{name:<32}{ours:>7.3f} s{theirs:>8.2f} s{theirs / ours:>8.0f}{gap:>10.1e}{last}")
    print(
        f"\nSeconds for a path of {LENGTH} penalties. gap: the largest (ours - theirs) over the penalties that "
        "cvxpy solved;\nnegative: our objective is the lower one."
    )


def problems() -> Iterator[tuple[str, np.ndarray, np.ndarray, int]]:
    """(name, x, y, classes): a small and the paper's design, and soup tasting where it is built."""
    for rows in (500, 2500):
        made = draw(DESIGNS["sparse-third-5"], rows, np.random.default_rng(1))
        yield f"design, {rows} x 10, 4 classes", made.x, made.y, 4
    try:
        from methods.data.loading import load

        soup = load("soup.all")
    except RetrofitError as error:
        print(f"soup left out: {error}")
        return
    yield "soup, 1847 x 22, 6 classes", soup.x, soup.y, 6


def our_path(x: np.ndarray, y: np.ndarray, classes: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Best of five: CPU seconds (standardising and the null model included), objectives, penalties."""
    best = np.inf
    for _ in range(5):
        start = time.process_time()
        problem = Problem(x, y, classes)
        lambdas = problem.lambdas(LENGTH, RATIO)
        path = problem.path(lambdas)
        best = min(best, time.process_time() - start)
    return best, path.objectives, lambdas


def cvxpy_path(
    x: np.ndarray,
    y: np.ndarray,
    classes: int,
    lambdas: np.ndarray,
    objectives: np.ndarray,
    chosen: np.ndarray,
) -> tuple[float, float]:
    """CPU seconds for 20 penalties and the largest excess of our objective over theirs."""
    import cvxpy

    mean, scale = standardisation(x)
    x = (x - mean) / scale
    q = classes - 1
    intercept, psi = cvxpy.Variable(q), cvxpy.Variable((q, x.shape[1]))
    lam = cvxpy.Parameter(nonneg=True)
    loss = 0.0
    for c in range(classes):
        rows = x[y == c]
        upper = intercept[c] + rows @ cvxpy.sum(psi[: c + 1], axis=0) if c < q else None
        lower = intercept[c - 1] + rows @ cvxpy.sum(psi[:c], axis=0) if c else None
        if upper is not None:
            loss += cvxpy.sum(cvxpy.logistic(-upper))
        if lower is not None:
            loss += cvxpy.sum(cvxpy.logistic(lower))
        if upper is not None and lower is not None:
            loss -= cvxpy.sum(cvxpy.log(1 - cvxpy.exp(lower - upper)))
    problem = cvxpy.Problem(cvxpy.Minimize(loss / len(x) + lam * cvxpy.sum(cvxpy.abs(psi))))
    lam.value = float(lambdas[0])
    problem.get_problem_data(cvxpy.CLARABEL)  # compile outside the clock
    spent, gap = 0.0, -np.inf
    for index in chosen:
        lam.value = float(lambdas[index])
        start = time.process_time()
        reached = problem.solve(solver=cvxpy.CLARABEL)
        spent += time.process_time() - start
        gap = max(gap, float(objectives[index] - reached))
    return spent / len(chosen) * LENGTH, gap


def ordinal_net_path(x: np.ndarray, y: np.ndarray, lambdas: np.ndarray) -> float | None:
    """CPU seconds of ordinalNet's own path of the same length; None without R or the package."""
    if shutil.which("Rscript") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "table.csv"
        np.savetxt(file, np.column_stack([x, y]), delimiter=",")
        script = f"""
            if (!requireNamespace("ordinalNet", quietly = TRUE)) quit(status = 3)
            d <- as.matrix(read.csv("{file}", header = FALSE))
            p <- ncol(d)
            x <- d[, -p]
            y <- factor(d[, p], ordered = TRUE)
            seconds <- system.time(ordinalNet::ordinalNet(
              x, y, family = "cumulative", parallelTerms = FALSE, nonparallelTerms = TRUE,
              nLambda = {len(lambdas)}, lambdaMinRatio = {RATIO}))
            cat(seconds[["user.self"]])
        """
        ran = subprocess.run(["Rscript", "-e", script], capture_output=True, text=True, check=False)
    if ran.returncode == 3:
        return None
    if ran.returncode:
        raise SystemExit(f"R failed:\n{ran.stderr}")
    return float(ran.stdout.split()[-1])


if __name__ == "__main__":
    main()

"""How good are predicted probabilities of the rare class, or of all classes?

OSCE (the paper's observed squared calibration error): rows are sorted by predicted probability and cut into
max(round(n / 100), 10) bins of equal count; the mean squared distance of each row's prediction from the event
rate of its own bin.  The published code sorts the events but not the predictions, so that a row is held against
the bin of another (defect D3); `osce_released` does the same, to show what that rewards.
"""

from __future__ import annotations

import numpy as np

SMALLEST = 1e-15
"""Predicted probabilities are kept this far from 0 and 1 in the log loss, as common tools do."""


def brier_classes(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Multi-class Brier score (1/n) sum_i sum_k (1{y_i = k} - p_ik)^2, [...] from [..., n, K]; y [n]."""
    truth = np.eye(probabilities.shape[-1])[y]
    return ((probabilities - truth) ** 2).sum(axis=-1).mean(axis=-1)


def brier(predicted: np.ndarray, event: np.ndarray) -> float:
    """Mean (p - event)^2 of a binary event; predicted [n], event bool [n]."""
    return float(np.mean((predicted - event) ** 2))


def log_loss(predicted: np.ndarray, event: np.ndarray) -> float:
    """Mean -log of the probability given to what happened, natural logarithm."""
    p = np.clip(predicted, SMALLEST, 1.0 - SMALLEST)
    return float(-np.mean(np.where(event, np.log(p), np.log1p(-p))))


def osce(predicted: np.ndarray, event: np.ndarray) -> float:
    """Observed squared calibration error; predicted [n], event bool [n], n >= 10."""
    order, rates = _bin_rates(predicted, event)
    return float(np.mean((predicted[order] - rates) ** 2))


def osce_released(predicted: np.ndarray, event: np.ndarray) -> float:
    """What the published code computes: bins of the sorted rows, predictions in the order they came."""
    _, rates = _bin_rates(predicted, event)
    return float(np.mean((predicted - rates) ** 2))


def rare_mse(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared error of the rare class's probability against the true one (synthetic data)."""
    return float(np.mean((predicted - truth) ** 2))


def _bin_rates(predicted: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sorting order [n], and for each sorted row the event rate of its bin [n]."""
    n = len(predicted)
    bins = max(round(n / 100), 10)
    if n < bins:
        raise ValueError(f"a calibration error over {bins} bins needs as many rows, got {n}")
    order = np.argsort(predicted, kind="stable")
    bin_of = np.arange(n) * bins // n
    totals = np.bincount(bin_of, weights=event[order].astype(float), minlength=bins)
    return order, (totals / np.bincount(bin_of, minlength=bins))[bin_of]

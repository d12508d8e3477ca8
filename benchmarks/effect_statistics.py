"""Means over seeds with Student's t intervals, and paired tests. Pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    half: float
    """Half of the 95 % interval; NaN for a single seed."""

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if math.isnan(self.half) else f"{self.mean:.3f} ±{self.half:.3f}"


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of values that are independent draws."""
    known = np.array(values, np.float64)
    if len(known) < 2:
        return Estimate(float(known.mean()), math.nan)
    error = known.std(ddof=1) / math.sqrt(len(known))
    return Estimate(float(known.mean()), quantile(len(known) - 1) * error)


def paired_p(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Two-sided p of a paired t-test, pair by pair; NaN for fewer than two pairs."""
    differences = np.array(ours, np.float64) - np.array(theirs, np.float64)
    if len(differences) < 2:
        return math.nan
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    if not error:
        return 0.0 if differences.mean() else 1.0
    return 2 * tail(abs(float(differences.mean())) / error, len(differences) - 1)


def tail(t: float, freedom: int) -> float:
    """P(T > t) of Student's distribution, by Simpson's rule on the density from 0 to t."""
    points = np.linspace(0.0, t, 20_001)
    density = (1 + points**2 / freedom) ** (-(freedom + 1) / 2)
    weights = np.ones_like(points)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    area = float((weights * density).sum() * (points[1] - points[0]) / 3)
    logs = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    return max(0.0, 0.5 - area * math.exp(logs) / math.sqrt(freedom * math.pi))


def quantile(freedom: int) -> float:
    """t with P(|T| > t) = 0.05, by bisection."""
    low, high = 0.0, 100.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if 2 * tail(middle, freedom) > 1 - LEVEL else (low, middle)
    return high

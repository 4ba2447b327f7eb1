"""Means over seeds with their 95 % intervals (Student's t), and the seeds that a decision takes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95
MOST = 1000  # seeds; a decision that takes more is out of reach


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that covers the true one in 95 of 100 repetitions.

    With one value low and high are infinite: it says nothing about the next one.
    """

    mean: float
    low: float
    high: float
    deviation: float
    count: int


def interval(values: Sequence[float]) -> Interval:
    """The t-interval of values that are independent and about normal; paired differences are."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean, -math.inf, math.inf, math.nan, count)
    deviation = statistics.stdev(values)
    half = half_width(deviation, count)
    return Interval(mean, mean - half, mean + half, deviation, count)


def half_width(deviation: float, count: int) -> float:
    """Half of the interval of `count` values with this standard deviation."""
    return t_quantile((1 + CONFIDENCE) / 2, count - 1) * deviation / math.sqrt(count)


def seeds_needed(deviation: float, distance: float) -> int | None:
    """Seeds until the interval is shorter than `distance` to either side; None above `MOST`.

    Mean and deviation are taken to stay what they are.
    """
    if not (math.isfinite(deviation) and distance > 0):
        return None
    if half_width(deviation, MOST) > distance:
        return None
    return next(n for n in range(2, MOST + 1) if half_width(deviation, n) <= distance)


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t for 0.5 < probability < 1, by bisection, to 1e-10."""
    low, high = 0.0, 1.0
    while t_distribution(high, freedom) < probability:
        high *= 2
    while high - low > 1e-10 * max(1.0, high):
        middle = (low + high) / 2
        if t_distribution(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def t_distribution(t: float, freedom: int) -> float:
    """P(T <= t) for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine = math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    terms = 0.0
    for k in range(1 + odd, freedom, 2):
        terms += term
        term *= cosine * k / (k + 1)
    if odd:
        return 0.5 + (angle + math.sin(angle) * terms) / math.pi
    return 0.5 + math.sin(angle) * terms / 2

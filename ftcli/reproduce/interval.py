"""Means over seeds with their intervals (Student's t), and the seeds that a decision takes.

Adding seeds until an interval decides raises the error above its level. So the error of 5 % is
spent over the looks at a figure: each look spends `SHARE` of what is left, 4 % at the first, 0.8 % at the
second, 0.16 % at the third. By Bonferroni's inequality (Dunn 1961, "Multiple comparisons among means") all
intervals of all looks, however many and for whatever reason, together cover the true mean in 95 of 100
repetitions. The spending of an error over looks is Lan and DeMets' (1983, "Discrete sequential boundaries
for clinical trials"); theirs is less wide because it counts on how looks depend on each other.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95
SHARE = 0.8  # of the remaining error, spent at each look
MOST = 1000  # largest number of seeds that is suggested


def confidence(look: int) -> float:
    """Return the level of the interval at the k-th look at a figure, from 1: 0.96, 0.992, 0.9984."""
    return 1 - (1 - CONFIDENCE) * SHARE * (1 - SHARE) ** (look - 1)


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval.

    With one value low and high are infinite.
    """

    mean: float
    low: float
    high: float
    deviation: float
    count: int


def interval(values: Sequence[float], level: float = CONFIDENCE) -> Interval:
    """Return the t-interval of independent, approximately normal values, such as paired differences."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return Interval(mean, -math.inf, math.inf, math.nan, count)
    deviation = statistics.stdev(values)
    half = half_width(deviation, count, level)
    return Interval(mean, mean - half, mean + half, deviation, count)


def half_width(deviation: float, count: int, level: float = CONFIDENCE) -> float:
    """Return half the width of the t-interval of `count` values with this standard deviation."""
    return t_quantile((1 + level) / 2, count - 1) * deviation / math.sqrt(count)


def count_needed_seeds(deviation: float, distance: float, level: float = CONFIDENCE) -> int | None:
    """Return the number of seeds for which half the interval is at most `distance`; None above `MOST`.

    Mean and deviation are assumed not to change.
    """
    if not (math.isfinite(deviation) and distance > 0):
        return None
    if half_width(deviation, MOST, level) > distance:
        return None
    return next(n for n in range(2, MOST + 1) if half_width(deviation, n, level) <= distance)


@cache
def t_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t for 0.5 < probability < 1, by bisection, to 1e-10."""
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
    """Return P(T <= t) for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
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

"""Verdicts on claims from figures over seeds.

A figure that chance moves is judged by the interval of its mean, or of its mean paired difference: the
claim holds when all of the interval satisfies it, fails when none of it does, and is inconclusive
otherwise. No single run decides. The level of the interval depends on the number of looks at the
figure (`ftcli.reproduce.interval`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ftcli.config.recipe import Claim
from ftcli.reproduce.interval import MOST, Interval, confidence, count_needed_seeds, interval

HOLDS, FAILS, INCONCLUSIVE = "holds", "fails", "inconclusive"
NOT_HERE = "not measurable here"
VERDICTS = (HOLDS, FAILS, INCONCLUSIVE, NOT_HERE)
ROUNDING = 1e-9  # relative; counted figures are compared up to it


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        mean, low, high: values of the judged figure (the difference or ratio where there is an `of`).
        values: the judged figure of every seed; by pair for an order of variants.
        why: what decided, or what is missing.
    """

    verdict: str
    why: str
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    values: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data without empty fields."""
        return {k: v for k, v in asdict(self).items() if v not in (None, [])}


@dataclass(frozen=True)
class Region:
    """The values that satisfy a relation; `open` leaves the bounds themselves out."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def holds(self, low: float, high: float) -> bool:
        """Whether every value from low to high satisfies it."""
        if self.open:
            return self.low < low and high < self.high
        return self.low <= low and high <= self.high

    def excludes(self, low: float, high: float) -> bool:
        """Whether no value from low to high satisfies it."""
        if self.open:
            return high <= self.low or low >= self.high
        return high < self.low or low > self.high

    def distance(self, value: float) -> float:
        """Return the distance from a value to the nearest finite bound."""
        return min(abs(value - bound) for bound in (self.low, self.high) if math.isfinite(bound))


def region(claim: Claim) -> Region:
    """Return the region in which the judged figure satisfies the claim."""
    name, number = claim.relation
    if name == "equals":
        slack = (claim.tolerance or 0.0) + ROUNDING * abs(number)
        return Region(number - slack, number + slack)
    if name == "within":
        middle = 1.0 if claim.compare == "ratio" else 0.0
        return Region(middle - number, middle + number)
    slack = ROUNDING * abs(number)
    return {
        "at_least": Region(low=number - slack),
        "at_most": Region(high=number + slack),
        "less_than": Region(high=number, open=True),
        "greater_than": Region(low=number, open=True),
    }[name]


@dataclass(frozen=True)
class Judge:
    """Decides one claim.

    Args:
        exact: whether the figures are the same for every seed.
        least: smallest number of seeds for a decision on a figure that varies with the seed.
        look: number of looks at the figure, this one included.
    """

    claim: Claim
    exact: bool
    least: int = 2
    look: int = 1

    def verdict(self, values: Mapping[str, Sequence[float]]) -> Verdict:
        """Return the verdict on figures.

        Args:
            values: variant -> its figure, one a seed, in the same order of seeds for all.
        """
        claim = self.claim
        if claim.ranks:
            return self._judge_order(values)
        figures = list(next(iter(values.values())))
        if claim.of is None:
            return self._judge_values(figures, region(claim))
        other = list(values[claim.of])
        if claim.compare == "difference":
            paired = [a - b for a, b in zip(figures, other, strict=True)]
        elif all(other):
            paired = [a / b for a, b in zip(figures, other, strict=True)]
        else:
            return Verdict(NOT_HERE, f"{claim.measure} of {claim.of} is 0, which has no ratio")
        return self._judge_values(paired, region(claim))

    def _judge_values(self, values: list[float], region: Region) -> Verdict:
        count = len(values)
        if self.exact:
            low, high = min(values), max(values)
            verdict = HOLDS if region.holds(low, high) else FAILS
            return Verdict(verdict, "exact", sum(values) / count, low, high, values)
        measured = interval(values, confidence(self.look))
        if count < max(2, self.least):
            why = f"{_runs(count)}; it takes {max(2, self.least)}"
            if count < 2:
                return Verdict(INCONCLUSIVE, why, measured.mean, values=values)
            return Verdict(INCONCLUSIVE, why, measured.mean, measured.low, measured.high, values)
        verdict, why = self._decide(measured, region)
        return Verdict(verdict, why, measured.mean, measured.low, measured.high, values)

    def _decide(self, measured: Interval, region: Region) -> tuple[str, str]:
        for verdict, test in ((HOLDS, region.holds), (FAILS, region.excludes)):
            if test(measured.low, measured.high):
                return verdict, f"{self._describe_level()} of {_runs(measured.count)}"
        distance = region.distance(measured.mean)
        needed = count_needed_seeds(measured.deviation, distance, confidence(self.look + 1))
        if needed is None:
            why = f"the mean lies at the bound: more than {MOST} seeds would not decide"
            return INCONCLUSIVE, why
        needed = max(needed, measured.count + 1)
        why = f"{self._describe_level()} of {_runs(measured.count)} does not decide; about {needed} would"
        return INCONCLUSIVE, why

    def _describe_level(self) -> str:
        """Return the level in words, such as `96 % interval`, with the look after the first."""
        text = f"{100 * confidence(self.look):.4g} % interval"
        return text if self.look == 1 else f"{text}, look {self.look},"

    def _judge_order(self, values: Mapping[str, Sequence[float]]) -> Verdict:
        """Return the verdict on an order of variants: each is compared with the next."""
        names = self.claim.ranks or []
        below = Region(high=0.0, open=True)
        pairs = {}
        for first, second in zip(names, names[1:], strict=False):
            paired = [a - b for a, b in zip(values[first], values[second], strict=True)]
            pairs[f"{first} < {second}"] = self._judge_values(paired, below)
        for verdict in (FAILS, INCONCLUSIVE):
            wrong = [f"{name}: {v.why}" for name, v in pairs.items() if v.verdict == verdict]
            if wrong:
                return Verdict(verdict, "; ".join(wrong), values=_means(pairs))
        why = "exact" if self.exact else f"{self._describe_level()} of every pair"
        return Verdict(HOLDS, f"every pair, {why}", values=_means(pairs))


def _means(pairs: Mapping[str, Verdict]) -> list[float]:
    return [v.mean for v in pairs.values() if v.mean is not None]


def _runs(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"

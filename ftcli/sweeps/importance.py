"""How much each key of a sweep matters to its score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean

from ftcli.sweeps.trial import FINISHED, Trial


def one_factor_shares(trials: Sequence[Trial], metric: str) -> dict[str, float]:
    """Share of the score's variance that the means over each key's values explain, 0 to 1.

    On a full grid this is the main effect of functional ANOVA (Hutter et al. 2014) exactly; what
    the shares lack to 1 is the interaction of keys. Empty while there is no variance.
    """
    scored = [
        (trial.point, score)
        for trial in trials
        if trial.status == FINISHED and (score := trial.score(metric)) is not None
    ]
    if not scored:
        return {}
    mean = fmean(score for _, score in scored)
    total = sum((score - mean) ** 2 for _, score in scored)
    if total == 0:
        return {}
    return {key: _between(scored, key, mean) / total for key in scored[0][0]}


def _between(scored: Sequence[tuple[Mapping[str, str], float]], key: str, mean: float) -> float:
    """Sum of squares between the groups of trials that share a value of `key`."""
    groups = defaultdict(list)
    for point, score in scored:
        groups[point[key]].append(score)
    return sum(len(group) * (fmean(group) - mean) ** 2 for group in groups.values())

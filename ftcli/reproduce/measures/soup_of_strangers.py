"""The mean of models that began from different random weights."""

from __future__ import annotations

from pathlib import Path


def soup_of_strangers(run: Path) -> float:
    """Test loss of the mean of this variant's runs over all seeds, minus the mean of their losses.

    The same for every seed: they are averaged together.
    """
    from ftcli.papers.model_soups.soup import uniform
    from ftcli.reproduce.deltas import beside, name_of, opened

    variant = name_of(run)[0]
    runs = [one for (own, _), one in sorted(beside(run).items()) if own == variant]
    own = opened(run)
    deltas = [opened(one).delta for one in runs]
    return own.loss(uniform(deltas)) - sum(own.loss(d) for d in deltas) / len(deltas)

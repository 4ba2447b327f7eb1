"""The models of one seed that differ in what they were trained with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

OTHERS = "scratch"  # variants that begin elsewhere


def soup_pot(run: Path) -> float:
    """How many models there are."""
    return float(len(pot(run).members))


@cache
def pot(run: Path) -> Any:
    """Them, with this run as the judge."""
    from ftcli.deltas.measuring import beside, name_of, opened
    from ftcli.deltas.soup import Pot

    seed = name_of(run)[1]
    runs = [r for (v, s), r in sorted(beside(run).items()) if s == seed and v != OTHERS]
    members = [opened(one).delta for one in runs]
    return Pot(members, opened(run).base, opened(run).bench)


@cache
def test_loss(run: Path, recipe: str) -> float:
    """Test loss of the best model on held-out rows, or of a soup."""
    made = pot(run)
    if recipe == "learned":
        return made.judge(made.learned()[0], "test")
    best = [made.singles.index(min(made.singles))]
    everything = list(range(len(made.members)))
    chosen = {"best": best, "uniform": everything}.get(recipe) or made.greedy()[0]
    return made.score(chosen, "test")

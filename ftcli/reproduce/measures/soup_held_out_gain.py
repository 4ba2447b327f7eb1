"""The greedy soup on the rows that choose it."""

from __future__ import annotations

from pathlib import Path


def soup_held_out_gain(run: Path) -> float:
    """Held-out loss of the greedy soup minus that of the best single model: never above 0."""
    from ftcli.reproduce.measures.soup_pot import pot

    made = pot(run)
    return made.score(made.greedy()[0]) - min(made.singles)

"""The greedy soup on the rows that choose it."""

from __future__ import annotations

from pathlib import Path

EXACT = True  # by construction: whatever the models, it is not above 0


def soup_held_out_gain(run: Path) -> float:
    """Loss on the choosing rows, the greedy soup's minus the best single model's."""
    from ftcli.reproduce.measures.soup_pot import pot

    made = pot(run)
    return made.score(made.greedy()[0]) - min(made.singles)

"""Reward of answers that equal the gold text."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.rewards import Answer


def exact_match(answers: Sequence[Answer], column: str | None = None) -> list[float]:
    """Return 1 where the answer equals the gold text up to surrounding whitespace, else 0.

    Args:
        column: column of the gold text; None: the completion.
    """
    return [float(a.text.strip() == a.gold(column).strip()) for a in answers]

"""Whether an answer is the gold text."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.rewards import Answer


def exact_match(answers: Sequence[Answer], column: str | None = None) -> list[float]:
    """1 where the answer equals the gold text, blanks at the ends aside, else 0.

    Args:
        column: of the row that holds the gold text; the completion when left out.
    """
    return [float(a.text.strip() == a.gold(column).strip()) for a in answers]

"""How long an answer is, and nothing else: what a reward is exploited for when nobody looks."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.rewards import Answer


def length(answers: Sequence[Answer], longest: int = 1000) -> list[float]:
    """Tokens of an answer over `longest`, at most 1; a negative weight rewards brevity."""
    return [min(1.0, len(answer.ids) / longest) for answer in answers]

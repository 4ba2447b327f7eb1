"""Reward of length alone, to study how a policy exploits a reward."""

from __future__ import annotations

from collections.abc import Sequence

from ftcli.rewards import Answer


def length(answers: Sequence[Answer], longest: int = 1000) -> list[float]:
    """Return the tokens of each answer over `longest`, at most 1; a negative weight rewards brevity."""
    return [min(1.0, len(answer.ids) / longest) for answer in answers]
